"""The table of operations, from which the command line, REST, the console and the help are made.

Invariant: whatever can be administered is a row here; a face offers nothing else. The table names functions and imports
none of their modules: `winpop unlock` reads nothing of how a backup is made, and takes less than half the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from winpop.admin.contract import Argument, Operation, Switch
from winpop.terms.names import Address, DomainName, parse_target


@dataclass(frozen=True, slots=True)
class Late:
    """A function whose module is imported when it is called."""

    module: str
    name: str

    def function(self) -> Callable[..., Any]:
        """Return the function."""
        function: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return function

    def __call__(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the function takes and returns
        """Call it."""
        return self.function()(*given, **named)


class _Module:
    """Stands for a module; what is taken from it are functions that are `Late`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Late:
        return Late(self._name, name)


if TYPE_CHECKING:
    from winpop.admin import (
        accounts,
        audit,
        backup,
        backup_restore,
        backup_words,
        certificates,
        check,
        directories,
        domains_and_mailboxes,
        listing,
        locks,
        mailboxes_from_file,
        settings,
        totals,
    )
    from winpop.auth import passwords
else:
    accounts = _Module("winpop.admin.accounts")
    audit = _Module("winpop.admin.audit")
    backup = _Module("winpop.admin.backup")
    backup_restore = _Module("winpop.admin.backup_restore")
    backup_words = _Module("winpop.admin.backup_words")
    certificates = _Module("winpop.admin.certificates")
    check = _Module("winpop.admin.check")
    directories = _Module("winpop.admin.directories")
    domains_and_mailboxes = _Module("winpop.admin.domains_and_mailboxes")
    listing = _Module("winpop.admin.listing")
    locks = _Module("winpop.admin.locks")
    mailboxes_from_file = _Module("winpop.admin.mailboxes_from_file")
    settings = _Module("winpop.admin.settings")
    totals = _Module("winpop.admin.totals")
    passwords = _Module("winpop.auth.passwords")

_TARGET = Argument("target", "DOMAIN | USER@DOMAIN", parse_target)
_ADDRESS = Argument("address", "USER@DOMAIN", Address.parse)
_DOMAIN = Argument("domain", "DOMAIN", DomainName.parse, optional=True)

_TABLE = (
    Operation(
        "add",
        "make a domain, or a mailbox with its account",
        """\
A domain is made first, then its mailboxes. With the encrypted password file a mailbox needs /createuser; with local
accounts or Active Directory an account that exists is taken, or /createuser makes one. A password that is left out is
asked for, or read from standard input. A file holds a line 'address,password' or
'address,password_hash' for each mailbox, hashes of the form $argon2id$; what is there already is left as it is,
so that the same file can be given again.

  winpop add example.com
  winpop add alice@example.com /createuser
  winpop add --from mailboxes.csv""",
        domains_and_mailboxes.add,
        (Argument("target", "DOMAIN | USER@DOMAIN", parse_target, unless="from"),),
        (
            Switch("createuser", "make the mailbox's account", "PASSWORD", accounts.new_password, secret=True),
            Switch(
                "from",
                "make the mailboxes of a CSV file; - is standard input",
                "FILE",
                many=mailboxes_from_file.add_from_file,
            ),
        ),
        changes=True,
        accounts=True,
        makes_home=True,
        prepare=accounts.prepare_making,
    ),
    Operation(
        "delete",
        "delete a domain with its mailboxes, or a mailbox, and all mail in them",
        """\
What is deleted cannot be brought back. On a terminal winpop asks first.

  winpop delete alice@example.com
  winpop delete example.com --yes""",
        domains_and_mailboxes.delete,
        (_TARGET,),
        (Switch("deleteuser", "delete the mailbox's account too; with the password file it always goes"),),
        changes=True,
        accounts=True,
        question=domains_and_mailboxes.deletion_question,
    ),
    Operation(
        "list",
        "show the domains, or the mailboxes of a domain",
        """\
By name, all of them. A page of a large domain is had with /limit; where there are more, /after goes on behind the last
name that was shown ('next_after' of --json, null at the end), and that mailbox need not be there any more.

  winpop list
  winpop list example.com
  winpop list example.com /limit 100
  winpop list example.com /after bob /limit 100""",
        listing.show,
        (_DOMAIN,),
        (
            Switch("after", "only mailboxes that come after this one by name", "NAME", listing.read_after),
            Switch("limit", "at most so many mailboxes", "N", listing.read_limit),
        ),
    ),
    Operation(
        "lock",
        "lock a domain or a mailbox: its mail is kept and cannot be fetched",
        """\
Sessions that are open in it end at once, and nobody can log on. Mail still comes in, and is there after the
unlock. A mailbox's own lock is separate from its domain's.

  winpop lock example.com
  winpop lock alice@example.com""",
        locks.lock,
        (_TARGET,),
        changes=True,
    ),
    Operation(
        "unlock",
        "unlock a domain or a mailbox: its mail can be fetched again",
        """\
While a domain is locked no single mailbox in it can be unlocked. Unlocking a domain gives back the state from
before it was locked: a mailbox with a lock of its own keeps it.

  winpop unlock example.com
  winpop unlock alice@example.com""",
        locks.unlock,
        (_TARGET,),
        changes=True,
    ),
    Operation(
        "stat",
        "count domains, mailboxes and mail, and tell whether the service runs",
        "  winpop stat\n  winpop stat example.com",
        totals.stat,
        (_DOMAIN,),
    ),
    Operation(
        "check",
        "read all mail and say what is damaged, missing or left over",
        """\
The service may run meanwhile. Every message is held against its checksum, every file against its row; what is damaged
is named by mailbox and message, and 'winpop restore' brings it back from a backup. The exit status is 1 when something
is left. With /repair is mended what needs no guess: permissions, sizes, counters, flags, unique-ids that cannot be,
and checksums of what came in before there were any. No body is ever removed or changed.

  winpop check
  winpop check /repair""",
        check.check,
        switches=(Switch("repair", "mend what needs no guess; no mail is removed or changed"),),
        changes=True,
        long=True,
    ),
    Operation(
        "changepwd",
        "change the password of a mailbox",
        """\
A password that is left out is asked for, or read from standard input; one that is given as an argument can be
seen by other users of the computer. One that begins with -- goes after a lone --.

  winpop changepwd alice@example.com""",
        accounts.change_password,
        (_ADDRESS, Argument("newpassword", "NEWPASSWORD", accounts.new_password, secret=True)),
        changes=True,
        accounts=True,
        prepare=accounts.prepare_change,
    ),
    Operation(
        "account",
        "show where a mailbox's account is, and what keeps it from logging on",
        """\
With Active Directory: its names there, whether it is disabled, expired, locked out or must change its password, and
whether it is an administrator of this server (a member of the group ldapadmins, also by other groups).

  winpop account alice@example.com""",
        accounts.describe,
        (_ADDRESS,),
    ),
    Operation(
        "createquotafile",
        "give a mailbox a quota record (comes later)",
        "  winpop createquotafile alice@example.com /user:bob",
        accounts.create_quota_file,
        (_ADDRESS,),
        (Switch("user", "the account whose quota is the model", "USERNAME", accounts.read_user),),
        changes=True,
    ),
    Operation(
        "migrateToAD",
        "turn a mailbox's account into an Active Directory account",
        """\
Mail, unique-ids and lock of the mailbox stay as they are. An account that Active Directory has for this address is
taken; where there is none, one is made, with the mailbox's own password where APOP or CRAM-MD5 have let it be kept,
else with the one of /createuser.

  winpop migrateToAD alice@example.com
  winpop migrateToAD alice@example.com /createuser""",
        accounts.migrate_to_ad,
        (_ADDRESS,),
        (
            Switch(
                "createuser", "the password of an account that is made", "PASSWORD", accounts.new_password, secret=True
            ),
        ),
        changes=True,
        prepare=accounts.prepare_migration,
    ),
    Operation(
        "backup",
        "back up the server, a domain or a mailbox into a directory",
        """\
Domains, mailboxes, locks, passwords, settings and mail, as they are now, while the service runs or not. A second
backup into the same directory copies only what is new; each leaves a snapshot that can be restored. The directory
holds mail and password hashes: it is its owner's alone, and should lie on another disk. Between two backups it can
be copied as it is. Each run reads a part of what the directory has again, with /verify all of it; what is damaged
there is copied anew. The exit status is 1 when messages or passwords are damaged; they are named, and the snapshot is
complete but for these.

  winpop backup /srv/backup
  winpop backup /srv/backup /keep 30
  winpop backup /srv/backup /verify
  winpop backup /srv/example example.com""",
        backup.back_up,
        (
            Argument("directory", "DIR", directories.read_directory, path=True),
            Argument("target", "DOMAIN | USER@DOMAIN", parse_target, optional=True),
        ),
        (
            Switch("keep", "remove all but the newest N snapshots", "N", backup_words.read_keep),
            Switch("verify", "read everything in the directory again, and copy anew what is damaged there"),
        ),
        changes=True,
        long=True,
    ),
    Operation(
        "restore",
        "bring back what a backup has and this server lacks",
        """\
Messages, mailboxes and domains that are missing come back as they were, with their unique-ids, locks and passwords;
messages that were damaged are mended. Nothing is removed, and what is there keeps its own lock, password and
settings. A mailbox that was made again since is left alone, unless it is named: it may be somebody else's. It can be
run while the service runs, and again after it was cut off. On a new machine it begins a new installation. With /mend
only damaged messages that are still there get their bodies back; nothing is added.

  winpop restore /srv/backup /list
  winpop restore /srv/backup
  winpop restore /srv/backup alice@example.com /at 2026-01-31T18:00:00Z
  winpop restore /srv/backup alice@example.com /mend""",
        backup_restore.restore,
        (
            Argument("directory", "DIR", directories.read_directory, path=True),
            Argument("target", "DOMAIN | USER@DOMAIN", parse_target, optional=True),
        ),
        (
            Switch("at", "take the newest snapshot that is not after this time", "TIME", backup_words.read_time),
            Switch("list", "show the snapshots and restore nothing"),
            Switch("mend", "only give damaged messages their bodies back; add and make nothing"),
        ),
        changes=True,
        long=True,
        makes_home=True,
    ),
    Operation(
        "get",
        "show the settings, or one of them",
        """\
Besides the names of settings there are 'port', the port of the setting pop3, and 'socket', which is
socketbacklog, socketmax, socketmin and socketthreshold together.

  winpop get
  winpop get autologout""",
        settings.get,
        (Argument("name", "NAME", settings.read_name, optional=True),),
    ),
    Operation(
        "set",
        "change a setting",
        """\
A running service takes it at once; listeners and the number of workers when it runs with workers and no switch of
its own overrides them. 'winpop get' shows the settings and what they mean. The value 'default' gives a setting its
default back. The mail root can only be moved while the service is stopped, to a directory that is missing or empty;
its mail goes along. Another authentication method (auth) is taken when every mailbox has an account there, or a
password here; else what stands in the way is listed, and nothing is changed.

  winpop set autologout 900
  winpop set port 110
  winpop set socket 1024 10000 10 10
  winpop set ldapuser winpop@example.com /password
  winpop set mailroot /srv/mail""",
        settings.set_value,
        (
            Argument("name", "NAME", settings.read_name),
            Argument("values", "VALUE…", str, rest=True, path=True),
        ),
        (
            Switch(
                "password",
                "with ldapuser: the password of that account, kept sealed",
                "PASSWORD",
                passwords.check,
                secret=True,
            ),
        ),
        changes=True,
        makes_home=True,
        prepare=settings.prepare,
    ),
    Operation(
        "certificate",
        "show the certificates for TLS, take another one, or remove one",
        """\
CHAINFILE is PEM: the server's certificate, then the ones it is issued by, each after the one it has issued; the root
may be left out. KEYFILE is its private key without a passphrase; one file may hold both and is then given twice. A
client gets the certificate for the host name that it asks for, else the default. A certificate with the same names as
one that is there takes its place; a running service takes it at once. Until there is one, TLS works with a
certificate that signs itself. With /clients, clients may log on with certificates that an authority in CAFILE has
signed (EXTERNAL), as the mailbox whose address is in them.

  winpop certificate
  winpop certificate fullchain.pem privkey.pem
  winpop certificate fullchain.pem privkey.pem /default
  winpop certificate /remove mail.example.com
  winpop certificate /clients ca.pem
  winpop certificate /clients none""",
        certificates.certificate,
        (
            Argument("chainfile", "CHAINFILE", optional=True, path=True, file=True),
            Argument("keyfile", "KEYFILE", optional=True, path=True, file=True),
        ),
        (
            Switch("default", "make it the one for clients that ask for no name or an unknown one"),
            Switch("remove", "remove the certificate with this name, or with just these, with commas", "NAME"),
            Switch(
                "clients",
                "take clients' certificates that these sign",
                "CAFILE | none",
                file=True,
                instead="none",
            ),
        ),
        changes=True,
        long=True,
    ),
    Operation(
        "audit",
        "show the last changes and refusals, and whose they were",
        "  winpop audit\n  winpop audit 100",
        audit.audit,
        (Argument("count", "N", audit.read_count, optional=True),),
    ),
)

OPERATIONS = {operation.word.lower(): operation for operation in _TABLE}
"""Every operation by its word in lower case, in the order in which they are shown."""
