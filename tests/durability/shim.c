/* Faults at system calls: preloaded (LD_PRELOAD), this library counts the calls of libc that change something below the
 * directory FAULT_DIR (a real path, without symbolic links), and lets one of them fail, or the program die at it.
 *
 * The number of the call, what is to happen at which, and what was hit are in the file FAULT_COUNTER, which all
 * processes map: master, workers and tools count together. Its layout is `struct shared`; shim.py has the other half.
 * The one leader of a session among them is the service; its process group is what `kill` ends, with whoever called.
 *
 * Invariant: a call that is not below FAULT_DIR goes to the kernel as it came, and so does every call where the
 * variables are not set. Nothing here allocates or locks, and system calls are made directly, so it may run in any
 * thread, in a signal handler, between vfork and exec. What is written through mapped memory (SQLite's -shm), by
 * io_uring, or by libc's own streams (fopen) is not seen; the service changes its home in none of the last two.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { POINTS = 16384, LABEL = 64 };
enum action { NOTHING, KILL, KILLAFTER, KILLONE, EIO_, ENOSPC_, SHORT, NOFSYNC, NODIRSYNC };
enum kind { WRITES, MAKES, SYNCS, OTHER };
enum verdict { GO, FAIL, HALF, AFTER, SKIP };

struct shared {
    _Atomic uint64_t count, hits, at, hit;
    _Atomic uint32_t action, lasting;
    _Atomic int32_t group;
    uint32_t unused;
    char labels[POINTS][LABEL];
};

static struct shared *shared;
static char below[PATH_MAX];
static size_t below_length;

__attribute__((constructor)) static void begin(void)
{
    const char *directory = getenv("FAULT_DIR"), *file = getenv("FAULT_COUNTER");
    if (!directory || !file || strlen(directory) >= sizeof below)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map == MAP_FAILED)
        return;
    below_length = strlen(directory);
    memcpy(below, directory, below_length);
    shared = map;
    if (getsid(0) == getpid())
        atomic_store(&shared->group, getpid());
}

static void die(int everybody)
{
    pid_t group = atomic_load(&shared->group);
    if (everybody && group > 1)
        kill(-group, SIGKILL);
    kill(getpid(), SIGKILL);
}

static char *append(char *to, const char *end, const char *from)
{
    while (*from && to < end)
        *to++ = *from++;
    return to;
}

static void label(uint64_t number, const char *call, const char *path)
{
    if (number > POINTS)
        return;
    char *text = shared->labels[number - 1], *end = text + LABEL - 1;
    const char *rest = path + below_length;
    char *to = append(text, end, call);
    append(append(to, end, " "), end, *rest ? rest + 1 : ".");
}

/* Count a call on this path, and say what becomes of it. `errno` is set for FAIL. */
static enum verdict point(enum kind kind, const char *call, const char *path)
{
    if (strncmp(path, below, below_length) || (path[below_length] && path[below_length] != '/'))
        return GO;
    uint64_t number = atomic_fetch_add(&shared->count, 1) + 1, at = atomic_load(&shared->at);
    label(number, call, path);
    enum action action = atomic_load(&shared->action);
    int lasting = atomic_load(&shared->lasting);
    if (action == NOTHING || (lasting ? number < at : number != at))
        return GO;
    struct stat status;
    if (action == SHORT && kind != WRITES)
        return GO;
    if (action == ENOSPC_ && lasting && kind != WRITES && kind != MAKES)
        return GO; /* a full disk lets go of things */
    if ((action == NOFSYNC || action == NODIRSYNC) && kind != SYNCS)
        return GO;
    if (action == NODIRSYNC && (stat(path, &status) || !S_ISDIR(status.st_mode)))
        return GO;
    uint64_t none = 0;
    atomic_compare_exchange_strong(&shared->hit, &none, number);
    atomic_fetch_add(&shared->hits, 1);
    switch (action) {
    case KILL: die(1); return GO;
    case KILLONE: die(0); return GO;
    case KILLAFTER: return AFTER;
    case EIO_: errno = EIO; return FAIL;
    case ENOSPC_: errno = ENOSPC; return FAIL;
    case SHORT: return HALF;
    default: return SKIP;
    }
}

/* Put the path of a descriptor, or of the working directory, into `path`; return its length. `errno` is kept. */
static ssize_t place_of(int fd, char *path)
{
    char name[32] = "/proc/self/cwd", digits[12];
    int before = errno, n = 0, at = 14;
    if (fd != AT_FDCWD) {
        if (fd < 0)
            return 0;
        memcpy(name, "/proc/self/fd/", 14);
        do
            digits[n++] = (char)('0' + fd % 10);
        while (fd /= 10);
        while (n)
            name[at++] = digits[--n];
    }
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, name, path, PATH_MAX);
    errno = before;
    if (length > 0)
        path[length] = 0;
    return length;
}

static enum verdict at_fd(enum kind kind, const char *call, int fd)
{
    char path[PATH_MAX + 1];
    return shared && fd >= 0 && place_of(fd, path) > 0 ? point(kind, call, path) : GO;
}

static enum verdict at_path(enum kind kind, const char *call, int directory, const char *given)
{
    char path[PATH_MAX + 1], *end = path + PATH_MAX;
    if (!shared || !given)
        return GO;
    if (*given == '/')
        return point(kind, call, given);
    ssize_t length = place_of(directory, path);
    if (length <= 0)
        return GO;
    *append(append(path + length, end, "/"), end, given) = 0;
    return point(kind, call, path);
}

/* Do `real`, or what was decided instead. */
#define DO(type, decision, half, real)                                                                                 \
    do {                                                                                                               \
        enum verdict what = (decision);                                                                                \
        if (what == FAIL)                                                                                              \
            return -1;                                                                                                 \
        if (what == SKIP)                                                                                              \
            return 0;                                                                                                  \
        type result = (type)(what == HALF ? (half) : (real));                                                          \
        if (what == AFTER)                                                                                             \
            die(1);                                                                                                    \
        return result;                                                                                                 \
    } while (0)
#define PLAIN(type, decision, real) DO(type, decision, real, real)

/* --- writing --- */

static size_t half_of(size_t size) { return size > 1 ? size / 2 : size; }
static ssize_t half_of_vector(const struct iovec *v) { return (ssize_t)half_of(v->iov_len); }

ssize_t write(int fd, const void *data, size_t n)
{
    DO(ssize_t, at_fd(WRITES, "write", fd), syscall(SYS_write, fd, data, half_of(n)), syscall(SYS_write, fd, data, n));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    DO(ssize_t, at_fd(WRITES, "pwrite", fd), syscall(SYS_pwrite64, fd, data, half_of(n), at),
       syscall(SYS_pwrite64, fd, data, n, at));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return pwrite(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *v, int n)
{
    DO(ssize_t, at_fd(WRITES, "writev", fd), syscall(SYS_write, fd, v->iov_base, half_of_vector(v)),
       syscall(SYS_writev, fd, v, n));
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    DO(ssize_t, at_fd(WRITES, "pwritev", fd), syscall(SYS_pwrite64, fd, v->iov_base, half_of_vector(v), at),
       syscall(SYS_pwritev, fd, v, n, at, 0L));
}
ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at) { return pwritev(fd, v, n, at); }
ssize_t sendfile(int to, int from, off_t *at, size_t n)
{
    DO(ssize_t, at_fd(WRITES, "sendfile", to), syscall(SYS_sendfile, to, from, at, half_of(n)),
       syscall(SYS_sendfile, to, from, at, n));
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t n) { return sendfile(to, from, at, n); }
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *place, size_t n, unsigned flags)
{
    DO(ssize_t, at_fd(WRITES, "copy_file_range", to),
       syscall(SYS_copy_file_range, from, at, to, place, half_of(n), flags),
       syscall(SYS_copy_file_range, from, at, to, place, n, flags));
}
int ftruncate(int fd, off_t n) { PLAIN(int, at_fd(OTHER, "ftruncate", fd), syscall(SYS_ftruncate, fd, n)); }
int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }
int truncate(const char *path, off_t n)
{
    PLAIN(int, at_path(OTHER, "truncate", AT_FDCWD, path), syscall(SYS_truncate, path, n));
}
int truncate64(const char *path, off64_t n) { return truncate(path, n); }
int fallocate(int fd, int mode, off_t at, off_t n)
{
    PLAIN(int, at_fd(MAKES, "fallocate", fd), syscall(SYS_fallocate, fd, mode, at, n));
}
int fallocate64(int fd, int mode, off64_t at, off64_t n) { return fallocate(fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n)
{
    int before = errno, failed = fallocate(fd, 0, at, n) ? errno : 0;
    errno = before;
    return failed;
}
int posix_fallocate64(int fd, off64_t at, off64_t n) { return posix_fallocate(fd, at, n); }

/* --- synchronising --- */

int fsync(int fd) { PLAIN(int, at_fd(SYNCS, "fsync", fd), syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { PLAIN(int, at_fd(SYNCS, "fdatasync", fd), syscall(SYS_fdatasync, fd)); }
int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{
    PLAIN(int, at_fd(SYNCS, "sync_file_range", fd), syscall(SYS_sync_file_range, fd, at, n, flags));
}

/* --- names --- */

static int opened(const char *call, int directory, const char *path, int flags, mode_t mode)
{
    if (!(flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE)
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    PLAIN(int, at_path(MAKES, call, directory, path), syscall(SYS_openat, directory, path, flags, mode));
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}
int openat(int at, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return opened("open", at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) __attribute__((alias("openat")));
int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return opened("open", AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int __open_2(const char *path, int flags) { return opened("open", AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened("open", AT_FDCWD, path, flags, 0); }
int __openat_2(int at, const char *path, int flags) { return opened("open", at, path, flags, 0); }
int __openat64_2(int at, const char *path, int flags) { return opened("open", at, path, flags, 0); }
int creat(const char *path, mode_t mode)
{
    return opened("open", AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    PLAIN(int, at_path(MAKES, "rename", to, new), syscall(SYS_renameat2, from, old, to, new, flags));
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags)
{
    PLAIN(int, at_path(MAKES, "link", to, new), syscall(SYS_linkat, from, old, to, new, flags));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
int symlinkat(const char *old, int to, const char *new)
{
    PLAIN(int, at_path(MAKES, "symlink", to, new), syscall(SYS_symlinkat, old, to, new));
}
int symlink(const char *old, const char *new) { return symlinkat(old, AT_FDCWD, new); }
int unlinkat(int at, const char *path, int flags)
{
    PLAIN(int, at_path(OTHER, "unlink", at, path), syscall(SYS_unlinkat, at, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int at, const char *path, mode_t mode)
{
    PLAIN(int, at_path(MAKES, "mkdir", at, path), syscall(SYS_mkdirat, at, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* --- modes and owners --- */

int fchmod(int fd, mode_t mode) { PLAIN(int, at_fd(OTHER, "chmod", fd), syscall(SYS_fchmod, fd, mode)); }
int chmod(const char *path, mode_t mode)
{
    PLAIN(int, at_path(OTHER, "chmod", AT_FDCWD, path), syscall(SYS_fchmodat, AT_FDCWD, path, mode));
}
int fchown(int fd, uid_t user, gid_t group)
{
    PLAIN(int, at_fd(OTHER, "chown", fd), syscall(SYS_fchown, fd, user, group));
}
int chown(const char *path, uid_t user, gid_t group)
{
    PLAIN(int, at_path(OTHER, "chown", AT_FDCWD, path), syscall(SYS_fchownat, AT_FDCWD, path, user, group, 0));
}
