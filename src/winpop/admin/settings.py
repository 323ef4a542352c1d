"""Settings: shown and changed.

`port` and `socket` are words and no settings of their own: the port is a part of the setting `pop3`, and `socket` is
four settings together, in the documented order. Invariant: a value is stored as it was given, once its setting's
reader has taken it; what a running service does with it is the service's affair, and it does so at once.
"""

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from winpop.admin import mailroot, methods
from winpop.admin.contract import Look, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.auth.sealing import LDAP_PASSWORD, Sealing
from winpop.db.contract import Reader
from winpop.db.home import Home
from winpop.directory import mailboxes, settings
from winpop.terms.endpoints import Endpoint
from winpop.terms.refusals import Refusal, not_understood, readable

_LEAST_AUTOLOGOUT = 600  # RFC 1939 §3: "at least 10 minutes' duration"
_LARGEST_PORT = 65535
_DEFAULT = "default"
_LISTENERS = ("pop3", "pop3s", "smtp", "lmtp")


def read_name(text: str) -> str:
    """Return the name of a setting, `port` or `socket`, in lower case. Raises `Refusal` (`no-such-setting`)."""
    name = text.lower()
    return name if name in {"port", "socket"} else settings.find(text).name


def get(look: Look, name: str | None) -> Outcome:
    """Show one setting, or all."""
    stored = settings.stored(look.reader)
    match name:
        case None:
            names: tuple[str, ...] = tuple(settings.SETTINGS)
        case "port":
            return _shown([_port(stored)])
        case "socket":
            names = settings.SOCKET
        case _:
            names = (name,)
    return _shown([_entry(look.home, stored, each) for each in names])


def prepare(look: Look, name: str, values: str, password: bytes | None) -> Any:  # noqa: ANN401 - what a setting needs
    """Do what others have to be asked for: the accounts of all mailboxes, where the method changes."""
    del password
    return methods.prepare(look, _default(name, values)) if name == "auth" else None


def set_value(work: Work, name: str, values: str, password: bytes | None) -> Outcome:
    """Change one setting; `socket` changes four together. `default` stands for a setting's default.

    `password` comes with the setting ldapuser, and is stored as ldappassword, sealed.
    """
    if password is not None and name != "ldapuser":
        raise not_understood("unexpected-value", "/password is the password of ldapuser; no other setting has one.")
    match name:
        case "auth":
            return methods.change(work, _default(name, values))
        case "ldapuser":
            return _set_ldap_user(work, _default(name, values), password)
        case "ldappassword" if values.lower() != _DEFAULT:
            raise Refusal(
                "secret-setting", "A password is no word for a command line: winpop set ldapuser NAME /password."
            )
        case "mailroot":
            return mailroot.move(work, "" if values.lower() == _DEFAULT else values)
        case "port":
            return _store(work, {"pop3": _with_port(work.transaction, values)})
        case "socket":
            return _store(work, _sockets(values))
        case _:
            outcome = _store(work, {name: _default(name, values)})
            if name in {"apop", "crammd5"} and not _wants_secrets(work.transaction):
                mailboxes.forget_secrets(work.transaction)
            return replace(outcome, notes=_notes(name, values))


def _set_ldap_user(work: Work, user: str, password: bytes | None) -> Outcome:
    """Change the account that Active Directory is looked up with; another account's password is not sent for it."""
    outcome = _store(work, {"ldapuser": user})
    if password is None:
        if outcome.changed:
            settings.store(work.transaction, {"ldappassword": ""})
        note = "Its password is not known: 'winpop set ldapuser NAME /password' asks for it."
        return replace(outcome, notes=(note,) if outcome.changed and user else ())
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        raise not_understood(
            "bad-password", "Active Directory takes passwords in UTF-8; set the terminal to it."
        ) from None
    settings.store(work.transaction, {"ldappassword": Sealing(work.home).seal_text(text, LDAP_PASSWORD)})
    return replace(outcome, sentence=f"Set: ldapuser {readable(user)}, and its password.", changed=True)


def _wants_secrets(reader: Reader) -> bool:
    now = settings.load(reader)
    return bool(now.apop or now.crammd5)


def _default(name: str, text: str) -> str:
    return settings.SETTINGS[name].default if text.lower() == _DEFAULT else text


def _store(work: Work, values: dict[str, str]) -> Outcome:
    """Store what differs from what holds. The refusals are those of `settings.store`."""
    before = settings.stored(work.transaction)
    different = {name: text for name, text in values.items() if name in settings.LATER or _differs(before, name, text)}
    for name in different:
        _check_listener(before | different, name)
    settings.store(work.transaction, different)
    said = ", ".join(f"{name} {readable(text)}" for name, text in values.items())
    return Outcome(
        f"Set: {said}." if different else f"That is how it is already: {said}; nothing was changed.",
        {"settings": [{"name": name, "value": text} for name, text in values.items()]},
        changed=bool(different),
    )


def _differs(before: dict[str, str], name: str, text: str) -> bool:
    setting = settings.SETTINGS[name]
    if text == setting.default:  # which the reader need not take: it may stand for something found at run time
        return before.get(name, setting.default) != text
    if name in before or setting.default:
        value = setting.read(text)
        try:
            return bool(value != setting.read(before.get(name, setting.default)))
        except Refusal:
            return True  # what is there cannot be read, and is mended so
    return True


def _check_listener(values: dict[str, str], name: str) -> None:
    """Refuse an address that another listener has (`address-taken-twice`)."""
    if name not in _LISTENERS:
        return
    ends = {each: settings.SETTINGS[each] for each in _LISTENERS}
    one = ends[name].read(values.get(name, ends[name].default))
    for other in _LISTENERS:
        two = settings.read_stored(other, values.get(other, ends[other].default)) if other != name else None
        if one is not None and two is not None and _meet(one, two):
            raise Refusal(
                "address-taken-twice",
                f"{name} cannot listen on {one}, since {other} listens on {two}; take another port, or set {other} "
                "first.",
            )


def _meet(one: Endpoint, two: Endpoint) -> bool:
    """Tell whether two listeners would be in each other's way. Port 0 is another one each time."""
    if one.port != two.port or one.port == 0:
        return False
    if one.host == two.host or "*" in {one.host, two.host}:
        return True
    first, second = ip_address(one.host), ip_address(two.host)
    return first.version == second.version and (first.is_unspecified or second.is_unspecified)


def _notes(name: str, text: str) -> tuple[str, ...]:
    if name == "autologout" and text.isdigit() and int(text) < _LEAST_AUTOLOGOUT:
        return (f"RFC 1939 asks for an autologout of at least {_LEAST_AUTOLOGOUT} seconds; some clients rely on it.",)
    if text == "1" and name in _PRICES:
        return (_PRICES[name],)
    if name == "expire" and text.isdigit():
        return (f"Mail is deleted {text} days after it came in, fetched or not; 'winpop set expire never' ends that.",)
    if name in _FILES and text and text.lower() != _DEFAULT and "://" not in text and not Path(text).is_file():
        return (f"There is no file {readable(text)}, seen from here; until there is, nothing can be done with it.",)
    return ()


_FILES = frozenset(["ldapca", "keytab", "oauthkeys"])
"""Settings that name a file."""
_SECRETS = (
    "The price: from the next change or logon with a password on, passwords are kept so that this server can read them "
    "(sealed under HOME/key), and who takes over the server has them."
)
_PRICES = {
    "apop": f"{_SECRETS} APOP rests on MD5, which is broken, and what a listener overhears can be guessed at.",
    "crammd5": f"{_SECRETS} What a listener overhears of CRAM-MD5 can be guessed at.",
    "ntlm": (
        "The price: NTLM does not know whom it talks to, so a logon can be relayed to another server, and one that is "
        "overheard can be guessed at; Kerberos (the setting keytab) has neither fault."
    ),
}
"""What it costs to switch a mechanism on, told when it is."""


def _with_port(reader: Reader, text: str) -> str:
    """Return the setting `pop3` with another port."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _LARGEST_PORT:
        raise not_understood(
            "bad-value", f"'{readable(text)}' cannot be a port; take a whole number from 1 to {_LARGEST_PORT}."
        )
    endpoint = _pop3(settings.stored(reader))
    if endpoint is None:
        raise Refusal(
            "pop3-off", "POP3 is off, so there is no port to change; 'winpop set pop3 HOST:PORT' turns it on."
        )
    return str(replace(endpoint, port=int(text)))


def _sockets(text: str) -> dict[str, str]:
    values = text.split()
    if len(values) != len(settings.SOCKET):
        raise not_understood(
            "bad-sockets", "'set socket' takes four numbers: BACKLOG MAX MIN THRESHOLD, such as 1024 10000 10 10."
        )
    return dict(zip(settings.SOCKET, values, strict=True))


def _pop3(stored: dict[str, str]) -> Endpoint | None:
    endpoint: Endpoint | None = settings.read_stored("pop3", stored.get("pop3", settings.SETTINGS["pop3"].default))
    return endpoint


def _port(stored: dict[str, str]) -> dict[str, str]:
    endpoint = _pop3(stored)
    default = _pop3({})
    assert default is not None
    return {
        "name": "port",
        "value": "off" if endpoint is None else str(endpoint.port),
        "default": str(default.port),
        "meaning": "the port of the setting pop3",
    }


def _entry(home: Home, stored: dict[str, str], name: str) -> dict[str, str]:
    """Describe a setting. Where an empty value stands for something, what it stands for is shown."""
    setting = settings.SETTINGS[name]
    found = {"mailroot": lambda: str(home.mail), "hostname": settings.own_hostname}
    default = setting.default or found.get(name, str)()
    value = stored.get(name) or default
    if setting.secret:
        value = "(set)" if value else ""
    return {"name": name, "value": value, "default": default, "meaning": setting.meaning}


def _shown(entries: list[dict[str, str]]) -> Outcome:
    rows: Any = tuple(tuple(entry.values()) for entry in entries)
    return Outcome(data={"settings": entries}, table=Table(("NAME", "VALUE", "DEFAULT", "MEANING"), rows))
