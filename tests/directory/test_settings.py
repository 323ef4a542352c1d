"""The settings: what a stored value is cannot surprise whoever reads it."""

import dataclasses
import socket

import pytest

from winpop.db.sqlite import Sqlite
from winpop.directory import settings
from winpop.directory.settings import SETTINGS, SOCKET, Settings
from winpop.terms.endpoints import Endpoint
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal

HOSTS = ("pop3", "smtp", "lmtp")
NUMBERS = {  # the least and the most that each takes
    "logging": (0, 3),
    "threadcount": (1, 64),
    "socketbacklog": (1, 32000),
    "sessionsperaddress": (0, 32000),
    "linelength": (64, 8192),
    "failuremax": (0, 1000),
    "errormax": (1, 100_000),
    "logontime": (1, 86400),
    "autologout": (1, 86400),
    "stalltime": (1, 86400),
    "draintime": (0, 3600),
    "messagesize": (1024, 2**40),
    "recipientmax": (100, 100_000),
    "hopmax": (10, 100),
    "smtplinelength": (512, 65536),
    "smtptimeout": (1, 86400),
    "datatime": (1, 86400),
}
NO_NUMBERS = ["", " 1", "1 ", "+1", "-1", "1_0", "1.0", "\u0661", "0x1", "1\n", "9" * 16, "one", "\x1b[2J"]
BAD = [
    *((name, text) for name in NUMBERS for text in [*NO_NUMBERS, str(NUMBERS[name][1] + 1)]),
    *((name, str(least - 1)) for name, (least, _) in NUMBERS.items() if least),
    *((name, text) for name in HOSTS for text in ("", "110", "on", "127.0.0.1:65536", "mail.example.com:25")),
    *(("auth", text) for text in ("0", "4", "03x", "file")),
    *(("hostname", text) for text in ("a b", "-a", "a.", ".a", "a..b", "a.-b", "a_b", "a\r\nb", "\u00fc", "a" * 254)),
    ("hostname", ".".join(["a" * 64, "com"])),
    *(("postmaster", text) for text in ("", "postmaster", "a@b", "a@b@c.example")),
    *(("trusted", text) for text in ("", "all", "10.0.0.1/8", "fe80::1%eth0")),
    *(("mailroot", text) for text in ("/mail\0", "/mail/\udcff")),
    *(("messagesize", text) for text in ("1M ", "1 T", "M", "1.5M", "0M", "1025 G", "1 MBB")),
    *((name, text) for name in ("socketmax", "socketmin") for text in ("0", "32001", "x")),
    *(("socketthreshold", text) for text in ("100", "-1", "x")),
]


def store(database: Sqlite, **values: str) -> Settings:
    with database.write() as transaction:
        settings.store(transaction, values)
    return settings.load(database)


def test_every_setting_has_a_default_that_it_can_read_and_a_meaning(database: Sqlite) -> None:
    loaded = settings.load(database)
    assert [field.name for field in dataclasses.fields(loaded)] == list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert setting.name == name
        assert setting.meaning
        if name != "hostname":  # empty stands for the computer's name
            assert getattr(loaded, name) == setting.read(setting.default)


def test_every_default_can_be_set_again_but_that_of_parts_which_come_later(database: Sqlite) -> None:
    defaults = {name: setting.default for name, setting in SETTINGS.items() if name not in settings.LATER}
    before = settings.load(database)
    assert store(database, **defaults) == before
    assert settings.stored(database) == defaults


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_taken_at_both_of_its_bounds(database: Sqlite, name: str) -> None:
    for bound in NUMBERS[name]:
        assert getattr(store(database, **{name: str(bound)}), name) == bound


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_refused_and_changes_nothing(database: Sqlite, name: str, text: str) -> None:
    store(database, logontime="60")
    with pytest.raises(Refusal) as caught:
        store(database, **{"errormax": "5", name: text})
    assert caught.value.kind is Kind.NOT_UNDERSTOOD
    assert caught.value.sentence.isprintable()
    assert settings.stored(database) == {"logontime": "60"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("pop3", "Off", None),
        ("pop3", "*:110", Endpoint("*", 110)),
        ("postmaster", "NONE", None),
        ("postmaster", "Alice@Example.com", Address.parse("alice@example.com")),
        ("trusted", "none", ()),
        ("hostname", "Mail.Example.COM", "mail.example.com"),
        ("messagesize", "50MB", 50 * 2**20),
        ("messagesize", "1 GiB", 2**30),
        ("messagesize", "2k", 2048),
        ("mailroot", "/srv/mail", "/srv/mail"),
        ("auth", "3", 3),
    ],
)
def test_a_value_is_read_as_people_write_it(database: Sqlite, name: str, text: str, value: object) -> None:
    assert getattr(store(database, **{name: text}), name) == value


@pytest.mark.parametrize("name", settings.LATER)
def test_what_comes_later_can_be_read_and_not_be_set(database: Sqlite, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        store(database, **{name: SETTINGS[name].default})
    assert (caught.value.code, settings.stored(database)) == ("not-yet", {})


@pytest.mark.parametrize(
    ("most", "least", "threshold", "allowed"),
    [
        (50, 10, 10, True),  # the documented defaults
        (12, 10, 1, True),
        (11, 10, 1, False),  # max is above min + threshold
        (110, 10, 99, True),
        (109, 10, 99, False),
        (10, 10, 0, True),
        (10, 10, 1, False),
        (11, 10, 0, False),  # 0 only when min is max
        (10, 11, 0, False),
        (10, 11, 1, False),
        (32000, 32000, 0, True),
        (1, 1, 0, True),
    ],
)
def test_the_documented_rules_of_the_sockets_hold(
    database: Sqlite, most: int, least: int, threshold: int, *, allowed: bool
) -> None:
    values = dict(zip(SOCKET, map(str, (7, most, least, threshold)), strict=True))
    if allowed:
        after = store(database, **values)
        assert (after.socketbacklog, after.socketmax, after.socketmin, after.socketthreshold) == (
            7,
            most,
            least,
            threshold,
        )
    else:
        with pytest.raises(Refusal) as caught:
            store(database, **values)
        assert (caught.value.code, settings.stored(database)) == ("bad-sockets", {})


def test_one_socket_setting_is_checked_against_those_that_are_stored(database: Sqlite) -> None:
    store(database, socketmax="50", socketmin="30")
    with pytest.raises(Refusal, match="socketmax 40, socketmin 30 and socketthreshold 10"):
        store(database, socketmax="40")
    assert store(database, socketmax="41").socketmax == 41


@pytest.mark.parametrize("name", ["auth", "AUTH", "Authentication", "authentication"])
def test_a_setting_is_found_in_any_case_and_by_its_long_name(name: str) -> None:
    assert settings.find(name).name == "auth"


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(Refusal, match=r"'\\x1b'") as caught:
        settings.find("\x1b")
    assert (caught.value.code, caught.value.kind) == ("no-such-setting", Kind.NOT_UNDERSTOOD)


def test_overrides_come_before_what_is_stored_and_are_not_kept(database: Sqlite) -> None:
    store(database, logging="1", threadcount="4")
    assert settings.load(database, {"logging": "2"}).logging == 2
    assert settings.load(database).logging == 1
    assert settings.load(database, {"logging": "2"}).threadcount == 4


@pytest.mark.parametrize(
    ("computer", "name"), [("Mail.Example.com", "mail.example.com"), ("my_computer", "localhost"), ("", "localhost")]
)
def test_the_host_name_is_the_computers_where_that_can_be_said(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch, computer: str, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: computer)
    assert settings.load(database).hostname == name
    assert store(database, hostname="mx.example").hostname == "mx.example"
    assert store(database, hostname="").hostname == name


def test_a_setting_of_another_version_does_no_harm(database: Sqlite) -> None:
    with database.write() as transaction:
        transaction.run("INSERT INTO setting (name, value) VALUES ('unheard-of', 'x')")
    assert settings.load(database).logging == 3
