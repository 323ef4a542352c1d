"""The table of operations, from which the command line, REST, the console and the help are made.

Invariant: whatever can be administered is a row here; a face offers nothing else.
"""

from winpop.admin import accounts, locks, settings
from winpop.admin.audit import audit, read_count
from winpop.admin.contract import Argument, Operation, Switch
from winpop.admin.domains_and_mailboxes import add, delete, deletion_question, show
from winpop.admin.mailboxes_from_file import add_from_file
from winpop.admin.totals import stat
from winpop.terms.names import Address, DomainName, parse_target

_TARGET = Argument("target", "DOMAIN | USER@DOMAIN", parse_target)
_ADDRESS = Argument("address", "USER@DOMAIN", Address.parse)
_DOMAIN = Argument("domain", "DOMAIN", DomainName.parse, optional=True)

_TABLE = (
    Operation(
        "add",
        "make a domain, or a mailbox with its account",
        """\
A domain is made first, then its mailboxes. With the encrypted password file a mailbox needs /createuser; a
password that is left out is asked for, or read from standard input. A file holds a line 'address,password' or
'address,password_hash' for each mailbox, hashes of the form $argon2id$; what is there already is left as it is,
so that the same file can be given again.

  winpop add example.com
  winpop add alice@example.com /createuser
  winpop add --from mailboxes.csv""",
        add,
        (Argument("target", "DOMAIN | USER@DOMAIN", parse_target, unless="from"),),
        (
            Switch("createuser", "make the mailbox's account", "PASSWORD", accounts.hash_of, secret=True),
            Switch("from", "make the mailboxes of a CSV file; - is standard input", "FILE", many=add_from_file),
        ),
        changes=True,
        makes_home=True,
    ),
    Operation(
        "delete",
        "delete a domain with its mailboxes, or a mailbox, and all mail in them",
        """\
What is deleted cannot be brought back. On a terminal winpop asks first.

  winpop delete alice@example.com
  winpop delete example.com --yes""",
        delete,
        (_TARGET,),
        (Switch("deleteuser", "delete the mailbox's account too; with the password file it always goes"),),
        changes=True,
        question=deletion_question,
    ),
    Operation(
        "list",
        "show the domains, or the mailboxes of a domain",
        "  winpop list\n  winpop list example.com",
        show,
        (_DOMAIN,),
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
        stat,
        (_DOMAIN,),
    ),
    Operation(
        "changepwd",
        "change the password of a mailbox",
        """\
A password that is left out is asked for, or read from standard input; one that is given as an argument can be
seen by other users of the computer. One that begins with -- goes after a lone --.

  winpop changepwd alice@example.com""",
        accounts.change_password,
        (_ADDRESS, Argument("newpassword", "NEWPASSWORD", accounts.hash_of, secret=True)),
        changes=True,
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
        "turn a mailbox's account into an Active Directory account (comes later)",
        "  winpop migrateToAD alice@example.com",
        accounts.migrate_to_ad,
        (_ADDRESS,),
        changes=True,
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
its mail goes along.

  winpop set autologout 900
  winpop set port 110
  winpop set socket 1024 10000 10 10
  winpop set mailroot /srv/mail""",
        settings.set_value,
        (
            Argument("name", "NAME", settings.read_name),
            Argument("values", "VALUE…", str, rest=True, path=True),
        ),
        changes=True,
        makes_home=True,
    ),
    Operation(
        "audit",
        "show the last changes and refusals, and whose they were",
        "  winpop audit\n  winpop audit 100",
        audit,
        (Argument("count", "N", read_count, optional=True),),
    ),
)

OPERATIONS = {operation.word.lower(): operation for operation in _TABLE}
"""Every operation by its word in lower case, in the order in which they are shown."""
