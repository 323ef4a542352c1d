"""The accounts of mailboxes: their passwords, and where they are kept.

Invariant: a password is hashed before the transaction begins (it takes some 50 ms), and goes no further than to what
keeps it: the password file, the operating system, or the directory.
"""

from dataclasses import dataclass, field, replace

from winpop.admin.contract import Look, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.auth import passwords
from winpop.auth.contract import DIRECTORY, FILE
from winpop.auth.sealing import Sealing, secret_context
from winpop.directory import domains, mailboxes, settings
from winpop.directory.mailboxes import Kept, Mailbox
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal, not_understood, readable

_LONGEST_USER = 256


@dataclass(frozen=True, slots=True)
class NewPassword:
    """A password that somebody has chosen, and what the password file keeps of it."""

    octets: bytes = field(repr=False)
    kept: Kept = field(repr=False)


def new_password(password: str) -> NewPassword:
    """Read a new password. Raises `Refusal` (`bad-password`)."""
    octets = passwords.check(password)
    return NewPassword(octets, passwords.keep(octets))


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An account that is not in the password file; `made` tells whether it was made just now."""

    method: int
    account: str
    made: bool


def prepare_making(look: Look, target: Address | object, createuser: NewPassword | None) -> Elsewhere | None:
    """Find or make the account of a mailbox that is to be made, where the password file is not the method.

    Raises `Refusal`: `no-such-account`, those of the method.
    """
    method = settings.load(look.reader).auth
    if not isinstance(target, Address) or method == FILE:
        return None
    domains.find(look.reader, target.domain)
    if mailboxes.look_up(look.reader, target) is not None:
        return None  # which will be refused
    accounts = look.accounts(method, look.reader)
    account = accounts.create(target, createuser.octets) if createuser else accounts.find(target)
    if account is None:
        raise Refusal(
            "no-such-account",
            f"There is no account for {target} in {NAMES[method]}; 'winpop add {target} /createuser' makes one.",
        )
    return Elsewhere(method, account, made=createuser is not None)


def make(work: Work, address: Address, createuser: NewPassword | None, domain_id: int) -> None:
    """Make a mailbox with the account that was prepared, or with one in the password file.

    Raises `Refusal`: `createuser-required`, `mailbox-exists`, `account-taken`.
    """
    elsewhere = work.prepared
    if not isinstance(elsewhere, Elsewhere):
        if createuser is None:
            raise Refusal(
                "createuser-required",
                f"A mailbox needs an account, and with the encrypted password file only winpop makes one: "
                f"winpop add {address} /createuser.",
            )
        keep(work, mailboxes.make(work.transaction, domain_id, address), createuser)
        return
    mailbox_id = mailboxes.make(work.transaction, domain_id, address)
    mailboxes.set_account(work.transaction, mailbox_id, elsewhere.method, elsewhere.account, made=elsewhere.made)


def keep(work: Work, mailbox_id: int, password: NewPassword) -> None:
    """Keep a password in the password file; itself only where APOP or CRAM-MD5 are asked for."""
    kept, now = password.kept, settings.load(work.transaction)
    if now.apop or now.crammd5:
        kept = replace(kept, secret=Sealing(work.home).seal(password.octets, secret_context(mailbox_id)))
    mailboxes.set_password(work.transaction, mailbox_id, kept)


def prepare_change(look: Look, address: Address, newpassword: NewPassword) -> None:
    """Change the password of an account that is not in the password file. Raises `Refusal` (those of the method)."""
    mailbox = mailboxes.find(look.reader, address)
    if mailbox.method != FILE:
        assert mailbox.account is not None
        look.accounts(mailbox.method, look.reader).set_password(mailbox.account, newpassword.octets)


def change_password(work: Work, address: Address, newpassword: NewPassword) -> Outcome:
    """Change the password of a mailbox's account, wherever it is; it holds from the next logon on."""
    mailbox = mailboxes.find(work.transaction, address)
    if mailbox.method == FILE:
        keep(work, mailbox.id, newpassword)
    else:
        mailboxes.renew_account(work.transaction, mailbox.id)
    return Outcome(f"The password of {address} is changed.", {"address": str(address)}, changed=True)


def prepare_migration(look: Look, address: Address, createuser: NewPassword | None) -> Elsewhere | None:
    """Find or make the account in Active Directory. Raises `Refusal` (`no-password-known`, those of the directory)."""
    mailbox = mailboxes.find(look.reader, address)
    if mailbox.method == DIRECTORY:
        return None
    accounts = look.accounts(DIRECTORY, look.reader)
    account = accounts.find(address)
    if account is not None:
        return Elsewhere(DIRECTORY, account, made=False)
    return Elsewhere(DIRECTORY, accounts.create(address, _known_password(look, mailbox, createuser)), made=True)


def migrate_to_ad(work: Work, address: Address, createuser: NewPassword | None) -> Outcome:
    """Make a mailbox's account the one in Active Directory that was prepared; its mail, lock and unique-ids stay.

    Raises `Refusal`: `account-taken`.
    """
    mailbox = mailboxes.find(work.transaction, address)
    data = {"address": str(address)}
    elsewhere = work.prepared
    if not isinstance(elsewhere, Elsewhere) or mailbox.method == DIRECTORY:
        return Outcome(f"The account of {address} is in Active Directory already; nothing was changed.", data)
    mailboxes.set_account(work.transaction, mailbox.id, DIRECTORY, elsewhere.account, made=elsewhere.made)
    mailboxes.forget_password(work.transaction, mailbox.id)
    which = "a new account" if elsewhere.made else "the account that is there"
    notes = () if elsewhere.made else ("From now on its password is that of the account in Active Directory.",)
    unused = "There was an account already, so the password that was given is not used."
    return Outcome(
        f"{address} logs on with {which} in Active Directory from now on; its mail is where it was.",
        data | {"made": elsewhere.made},
        changed=True,
        notes=notes + ((unused,) if createuser and not elsewhere.made else ()),
    )


def _known_password(look: Look, mailbox: Mailbox, createuser: NewPassword | None) -> bytes:
    """Return the password for an account to be made: the one that is given, or the one that is kept to be read."""
    if createuser is not None:
        return createuser.octets
    kept = mailboxes.kept(look.reader, mailbox.id)
    if kept is None or kept.secret is None:
        raise Refusal(
            "no-password-known",
            f"There is no account for {mailbox.address} in Active Directory, and only a hash of its password is here; "
            f"give the new account one: winpop migrateToAD {mailbox.address} /createuser.",
        )
    return Sealing(look.home).open(kept.secret, secret_context(mailbox.id))


def describe(look: Look, address: Address) -> Outcome:
    """Show where a mailbox's account is, and what keeps it from logging on, as far as that can be seen from here."""
    mailbox = mailboxes.find(look.reader, address)
    rows = [("method", f"{mailbox.method}, {NAMES[mailbox.method]}")]
    if mailbox.method == FILE:
        rows += _of_file(mailboxes.kept(look.reader, mailbox.id))
    else:
        assert mailbox.account is not None
        rows += look.accounts(mailbox.method, look.reader).facts(mailbox.account)
    locked = {"domain": "by its domain", "mailbox": "by its own lock", None: "no"}[mailbox.locked]
    rows.append(("locked", locked))
    return Outcome(
        data={"address": str(address), "account": [{"name": name, "value": value} for name, value in rows]},
        table=Table(("WHAT", "IT IS"), tuple(rows)),
    )


def _of_file(kept: Kept | None) -> list[tuple[str, str]]:
    if kept is None:
        return [("state", "it has no password; nobody can log on")]
    has = [name for name, text in (("SHA-1", kept.scram_sha_1), ("SHA-256", kept.scram_sha_256)) if text]
    return [
        ("SCRAM keys", ", ".join(has) or "none; its next logon with a password brings them"),
        ("readable password", "yes, sealed" if kept.secret else "no"),
    ]


def create_quota_file(work: Work, address: Address, user: str | None) -> Outcome:
    """Refuse, after the mailbox was found: quotas come later (`not-yet`)."""
    del user
    mailboxes.find(work.transaction, address)
    raise Refusal("not-yet", f"Quotas are not part of this version yet, so {address} gets no quota record.")


def read_user(text: str) -> str:
    """Return the name of an account that is the model of a quota. Raises `Refusal` (`bad-user`)."""
    if not 1 <= len(text) <= _LONGEST_USER or not text.isprintable():
        raise not_understood("bad-user", f"'{readable(text)}' cannot be the name of an account.")
    return text


NAMES = {1: "the accounts of this computer", 2: "Active Directory", 3: "the encrypted password file"}
"""The authentication methods in a sentence."""
