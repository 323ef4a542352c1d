"""get and set: documented words, combinations, limits."""

import sqlite3

import pytest

from admin.doing import audited, do, dump, refused
from winpop.db.home import Home
from winpop.directory import settings
from winpop.terms.refusals import Kind


def value(home: Home, name: str) -> str:
    return str(do(home, "get", name=name).data["settings"][0]["value"])


def test_get_shows_every_setting_with_value_default_and_meaning(home: Home) -> None:
    shown = do(home, "get").data["settings"]
    assert [entry["name"] for entry in shown] == list(settings.SETTINGS)
    assert all(entry["meaning"] for entry in shown)
    empty = {name for name, setting in settings.SETTINGS.items() if not setting.default} - {"hostname", "mailroot"}
    assert {entry["name"] for entry in shown if not (entry["value"] and entry["default"])} == empty


@pytest.mark.parametrize("name", [name for name in settings.SETTINGS if name not in settings.LATER])
def test_every_setting_can_be_set_to_its_default(home: Home, name: str) -> None:
    before = dump(home)
    outcome = do(home, "set", name=name, values="default")
    assert not outcome.changed
    assert dump(home) == before


def test_names_in_any_case_and_the_documented_alias(home: Home) -> None:
    assert do(home, "get", name="AUTHentication").data["settings"][0]["name"] == "auth"
    do(home, "set", name="ThreadCount", values="4")
    assert value(home, "threadcount") == "4"
    assert audited(home) == [("set", "threadcount 4", "done")]


def test_a_default_comes_back(home: Home) -> None:
    do(home, "set", name="hostname", values="mail.example.com")
    assert value(home, "hostname") == "mail.example.com"
    assert do(home, "set", name="hostname", values="default").changed
    assert value(home, "hostname") == settings.own_hostname()


def test_port_is_the_port_of_pop3(home: Home) -> None:
    do(home, "set", name="pop3", values="[::1]:1110")
    do(home, "set", name="port", values="2110")
    assert (value(home, "port"), value(home, "pop3")) == ("2110", "[::1]:2110")
    for bad in ("0", "65536", "x", "+1", "99999999999"):
        assert refused(home, "set", name="port", values=bad).code == "bad-value"
    do(home, "set", name="pop3", values="off")
    assert value(home, "port") == "off"
    assert refused(home, "set", name="port", values="110").code == "pop3-off"


def test_socket_is_four_settings_in_the_documented_order(home: Home) -> None:
    do(home, "set", name="socket", values="20 500 5 50")
    shown = {entry["name"]: entry["value"] for entry in do(home, "get", name="socket").data["settings"]}
    assert shown == {"socketbacklog": "20", "socketmax": "500", "socketmin": "5", "socketthreshold": "50"}
    assert refused(home, "set", name="socket", values="20 500 5").code == "bad-sockets"
    assert refused(home, "set", name="socket", values="20 500 5 50 6").code == "bad-sockets"
    assert refused(home, "set", name="socket", values="20 54 5 50").code == "bad-sockets"
    assert refused(home, "set", name="socketmax", values="55").code == "bad-sockets"
    assert refused(home, "set", name="socketthreshold", values="0").code == "bad-sockets"
    assert do(home, "set", name="socket", values="20 50 50 0").changed


@pytest.mark.parametrize(
    ("name", "values"),
    [("submission", "off"), ("submission", "127.0.0.1:587"), ("http", "off"), ("http", "127.0.0.1:80")],
)
def test_settings_of_what_comes_later_are_refused(home: Home, name: str, values: str) -> None:
    assert refused(home, "set", name=name, values=values).code == "not-yet"


@pytest.mark.parametrize(
    ("name", "values", "code"),
    [
        ("auth", "4", "bad-value"),
        ("logging", "4", "bad-value"),
        ("logging", "-1", "bad-value"),
        ("threadcount", "0", "bad-value"),
        ("threadcount", "", "bad-value"),
        ("threadcount", "2 3", "bad-value"),
        ("socketmax", "32001", "bad-value"),
        ("autologout", "٦٠٠", "bad-value"),
        ("autologout", "1_000", "bad-value"),
        ("messagesize", "99999999999999999", "bad-value"),
        ("messagesize", "50XB", "bad-value"),
        ("pop3", "localhost", "bad-endpoint"),
        ("smtp", "example.com:25", "bad-endpoint"),
        ("trusted", "10.0.0.1/8", "bad-network"),
        ("trusted", "", "bad-network"),
        ("hostname", "two words", "bad-value"),
        ("hostname", "\udcff", "bad-value"),
        ("postmaster", "nobody", "bad-address"),
        ("nonsense", "1", "no-such-setting"),
    ],
)
def test_bad_values_are_not_understood(home: Home, name: str, values: str, code: str) -> None:
    refusal = refused(home, "set", name=name, values=values)
    assert (refusal.code, refusal.kind) == (code, Kind.NOT_UNDERSTOOD)


def test_words_of_a_list_are_joined(home: Home) -> None:
    do(home, "set", name="trusted", values="192.168.7.0/24 ::1")
    assert value(home, "trusted") == "192.168.7.0/24 ::1"


def test_what_means_the_same_changes_nothing(home: Home) -> None:
    assert not do(home, "set", name="messagesize", values="50MB").changed
    assert audited(home) == [("set", "messagesize 50MB", "unchanged")]


def test_a_short_autologout_is_taken_with_a_note(home: Home) -> None:
    assert "600" in do(home, "set", name="autologout", values="599").notes[0]
    assert do(home, "set", name="autologout", values="600").notes == ()


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        ("127.0.0.1:2525", "127.0.0.1:2525", True),
        ("*:2525", "127.0.0.1:2525", True),
        ("[::1]:2525", "*:2525", True),
        ("0.0.0.0:2525", "127.0.0.1:2525", True),
        ("[::]:2525", "[::1]:2525", True),
        ("127.0.0.1:2525", "127.0.0.2:2525", False),
        ("[::]:2525", "127.0.0.1:2525", False),
        ("127.0.0.1:2525", "127.0.0.1:2526", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:2525", "off", False),
    ],
)
def test_two_listeners_do_not_get_the_same_address(home: Home, one: str, two: str, meet: bool) -> None:  # noqa: FBT001
    do(home, "set", name="smtp", values=one)
    if meet:
        refusal = refused(home, "set", name="lmtp", values=two)
        assert (refusal.code, refusal.kind) == ("address-taken-twice", Kind.REFUSED)
        assert "smtp" in refusal.sentence
    else:
        do(home, "set", name="lmtp", values=two)


def test_the_defaults_and_the_word_port_count_too(home: Home) -> None:
    assert refused(home, "set", name="lmtp", values="127.0.0.1:110").code == "address-taken-twice"
    assert refused(home, "set", name="port", values="25").code == "address-taken-twice"
    do(home, "set", name="smtp", values="off")
    assert do(home, "set", name="port", values="25").changed


def test_a_setting_that_somebody_has_damaged_is_named_and_can_be_mended(home: Home) -> None:
    connection = sqlite3.connect(home.database)
    connection.execute("INSERT INTO setting (name, value) VALUES ('pop3', 'nonsense'), ('hopmax', 'many')")
    connection.commit()
    connection.close()
    assert do(home, "set", name="hopmax", values="default").changed  # one damage does not keep another
    for word, given in (("get", {"name": "port"}), ("set", {"name": "port", "values": "1110"})):
        refusal = refused(home, word, **given)
        assert (refusal.code, refusal.kind) == ("setting-damaged", Kind.OUT_OF_REACH)
        assert "pop3" in refusal.sentence
    assert do(home, "set", name="pop3", values="default").changed
    assert value(home, "port") == "110"
