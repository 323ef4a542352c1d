"""Logons and accounts with a real Active Directory domain controller, which the tests start themselves (Samba).

An account gets at most two wrong passwords, except where its lock-out is what is tested.
"""

import asyncio
import dataclasses
import os
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from auth import directories
from auth.conformance import LAWS, Account, Law, Subject
from auth.directories import Directory, Server, relay
from winpop.auth.active_directory import ActiveDirectory, DirectoryAccounts, messages
from winpop.auth.active_directory.connection import Server as Controller
from winpop.auth.active_directory.connection import open_connection
from winpop.auth.contract import Answer, CannotSay, Right, Wrong
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal

if TYPE_CHECKING:
    from real.directory import Domain  # pytest imports it as a plugin

pytest_plugins = ["real.directory"]
SERVICE, ADMIN = "Passw0rd!svc-winpop", "Passw0rd!svc-admin"
MAIL_USERS = "alice", "bob", "carol"


@pytest.fixture
def settings(domain: "Domain") -> Directory:
    """Look up as an account that may do no more than that."""
    return Directory((domain.uri,), str(domain.ca), ldapuser=f"svc-winpop@{domain.realm.lower()}", ldaptimeout=20)


@pytest.fixture
def admin(settings: Directory, domain: "Domain") -> DirectoryAccounts:
    """The tool, as an account that may make others."""
    return DirectoryAccounts(dataclasses.replace(settings, ldapuser=f"{domain.name}\\svc-admin"), ADMIN)


@pytest.fixture
def accounts(settings: Directory) -> DirectoryAccounts:
    """The tool, as an account that may look only."""
    return DirectoryAccounts(settings, SERVICE)


@pytest.fixture
def address() -> Address:
    """An address that nothing in the domain has; the domain is among its suffixes."""
    return Address.parse(f"t{uuid.uuid4().hex[:10]}@example.com")


def run(settings: Directory, work: Callable[[ActiveDirectory], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401 - what `work` returns
    async def main() -> Any:  # noqa: ANN401 - see above
        method = ActiveDirectory(settings, SERVICE)
        try:
            return await work(method)
        finally:
            await method.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def check(settings: Directory, account: str | None, *passwords: str) -> list[Answer]:
    async def work(method: ActiveDirectory) -> list[Answer]:
        return [await method.check(account, "somebody", password.encode()) for password in passwords]

    answers: list[Answer] = run(settings, work)
    return answers


def found(accounts: DirectoryAccounts, name: str) -> str:
    account = accounts.find(Address.parse(name))
    assert account is not None
    return account


def refusal(work: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        work()
    assert "\n" not in caught.value.sentence
    assert caught.value.sentence.endswith(".")
    return caught.value.code, caught.value.sentence


# Logons


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("alice", None),
        ("bob", None),
        ("carol", "disabled"),
        ("erin", "password expired"),
        ("frank", "must change password"),
        ("gina", "expired"),
    ],
)
def test_a_right_password_lets_in_or_tells_the_log_why_not(
    settings: Directory, accounts: DirectoryAccounts, name: str, why: str | None
) -> None:
    account = found(accounts, f"{name}@mail.test" if name != "bob" else "robert@mail.test")
    assert check(settings, account, f"Passw0rd!{name}") == [Wrong(why) if why else Right()]
    assert accounts.describe(account).states == ((why,) if why else ())
    assert run(settings, lambda method: method.usable(account)) == (Wrong(why) if why else Right())


def test_an_account_that_is_locked_out_is_told_so_in_the_log_even_with_the_right_password(
    settings: Directory, accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    name = domain.make_user()
    account = found(accounts, f"{name}@{domain.realm}")
    wrong, right = "Wr0ng-Passw0rd", f"Passw0rd!{name}"
    answers = check(settings, account, right, wrong, wrong, wrong, right)
    assert answers[:4] == [Right(), Wrong(), Wrong(), Wrong()]
    assert answers[4] == Wrong("locked out")
    assert accounts.describe(account).states == ("locked out",)
    assert run(settings, lambda method: method.usable(account)) == Wrong("locked out")


def test_a_disabled_account_with_a_wrong_password_is_only_wrong(
    settings: Directory, accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    name = domain.make_user(userAccountControl="514")
    account = found(accounts, f"{name}@{domain.realm}")
    assert check(settings, account, "Wr0ng-Passw0rd", f"Passw0rd!{name}") == [Wrong(), Wrong("disabled")]


def test_a_password_and_a_name_beyond_ascii_are_their_octets(
    settings: Directory, accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    name = domain.make_user(f"müller-{os.urandom(3).hex()}", "Pässwörd-日本", mail=f"{uuid.uuid4()}@mail.test")
    account = run(settings, lambda method: method.find(f"{domain.name}\\{name}"))
    assert check(settings, account, "Pässwörd-日本", "Passwörd-日本") == [Right(), Wrong()]
    assert accounts.describe(account).sam_account_name == name


def test_an_account_keeps_its_identifier_when_it_is_renamed_and_is_nobody_when_it_is_gone(
    settings: Directory, accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    name = domain.make_user()
    account = found(accounts, f"{name}@{domain.realm}")
    domain.modify(domain.dn(name), sAMAccountName=f"{name[:16]}-new", userPrincipalName=f"{name}-new@mail.test")
    assert check(settings, account, f"Passw0rd!{name}") == [Right()]
    assert found(accounts, f"{name}-new@mail.test") == account
    domain.delete(domain.dn(name))
    assert check(settings, account, f"Passw0rd!{name}") == [Wrong("no account")]
    assert run(settings, lambda method: method.usable(account)) == Wrong("no account")


@pytest.mark.parametrize("password", ["", "\0", "Passw0rd!alice\0", "x" * 1025])
def test_what_would_be_an_anonymous_bind_is_a_wrong_password(
    settings: Directory, accounts: DirectoryAccounts, password: str
) -> None:
    assert check(settings, found(accounts, "alice@mail.test"), password) == [Wrong()]


def test_this_domain_controller_lets_in_whoever_says_no_name_and_no_password(domain: "Domain") -> None:
    """So that has to be refused before (RFC 4513 §5.1.2). A name without a password Samba refuses, Windows does not."""

    async def bind() -> tuple[int, int]:
        connection = await open_connection(Controller(domain.uri), str(domain.ca), 20)
        anonymous = await connection._do(messages.bind("", b""))
        refused = await connection.bind("", b"")
        await connection.close()
        return anonymous.code, refused.code

    assert asyncio.run(bind()) == (messages.SUCCESS, messages.INVALID_CREDENTIALS)


@pytest.mark.parametrize("form", ["{0}@{1}", "{2}\\{0}", "CN={0},{3}"])
def test_the_service_account_may_be_named_in_each_form(settings: Directory, domain: "Domain", form: str) -> None:
    user = form.format("svc-winpop", domain.realm, domain.name, domain.ou)
    named = DirectoryAccounts(dataclasses.replace(settings, ldapuser=user), SERVICE)
    assert named.find(Address.parse("alice@mail.test"))


# Names


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("alice", "alice"),
        ("ALICE", "alice"),
        ("WINPOP\\alice", "alice"),
        ("winpop\\Alice", "alice"),
        ("ad.winpop.test\\alice", "alice"),
        ("alice@ad.winpop.test", "alice"),
        ("Alice@AD.WINPOP.TEST", "alice"),
        ("robert@mail.test", "bob"),
        ("bob@ad.winpop.test", "bob"),
        ("WINPOP\\bob", "bob"),
        ("jürgen", "jürgen"),
        ("WINPOP\\jürgen", "jürgen"),
        ("bob@mail.test", None),
        ("robert", None),
        ("OTHER\\alice", None),
        ("WINPOP\\", None),
        ("\\alice", None),
        ("WINPOP\\ad\\alice", None),
        ("@ad.winpop.test", None),
        ("alice@", None),
        ("alice@other.test", None),
        ("dc1$", None),
        ("WINPOP\\dc1$", None),
        ("Domain Admins", None),
        ("*", None),
        ("al*", None),
        ("*)(uid=*", None),
        ("alice)(objectClass=*", None),
        ("alice))(|(cn=*", None),
        ("\\61lice", None),
        ("ali\0ce", None),
        ("CN=alice,OU=Mail Users,DC=ad,DC=winpop,DC=test", None),
        ("", None),
        ("a" * 10000, None),
    ],
)
def test_a_logon_name_means_what_it_means_in_windows(
    settings: Directory, accounts: DirectoryAccounts, name: str, who: str | None
) -> None:
    account = run(settings, lambda method: method.find(name))
    assert (accounts.describe(account).sam_account_name if account else None) == who


def test_an_address_is_a_principal_name_before_it_is_a_mail_address_or_a_pre_windows_2000_name(
    accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    one, two, three = (domain.make_user() for _ in range(3))
    wanted = Address.parse(f"{one}@example.com")
    account = found(accounts, f"{one}@example.com")
    assert accounts.describe(account).sam_account_name == one
    domain.modify(domain.dn(two), mail=str(wanted))
    assert accounts.describe(found(accounts, str(wanted))).sam_account_name == two
    domain.modify(domain.dn(three), userPrincipalName=str(wanted))
    assert accounts.describe(found(accounts, str(wanted))).sam_account_name == three


def test_two_accounts_that_an_address_could_mean_are_named(
    accounts: DirectoryAccounts, domain: "Domain", address: Address
) -> None:
    one, two = domain.make_user(mail=str(address)), domain.make_user(mail=str(address))
    code, sentence = refusal(lambda: accounts.find(address))
    assert code == "account-ambiguous"
    assert domain.dn(one) in sentence
    assert domain.dn(two) in sentence


@pytest.mark.parametrize(
    ("values", "domain_name", "outcome"),
    [
        ({}, "example.com", "found"),
        ({"mail": "{0}@EXAMPLE.com"}, "example.com", "found"),
        ({"mail": "somebody@example.com"}, "example.com", "account-of-another"),
        ({"mail": "{0}@mail.test"}, "example.com", "account-of-another"),
        ({"userPrincipalName": "{0}@mail.test"}, "example.com", "nobody"),
        ({"userPrincipalName": "x{0}@example.com"}, "example.com", "found"),
        ({"userPrincipalName": "{0}@mail.test", "mail": "{0}@mail.test"}, "example.com", "nobody"),
        ({"userPrincipalName": "{0}@AD.WINPOP.TEST"}, "example.com", "found"),
    ],
)
def test_a_mailbox_gets_no_account_that_is_another_ones_by_its_mail_address(
    accounts: DirectoryAccounts, domain: "Domain", values: dict[str, str], domain_name: str, outcome: str
) -> None:
    name = f"m{uuid.uuid4().hex[:10]}"
    domain.make_user(name, **{attribute: value.format(name) for attribute, value in values.items()})
    wanted = Address.parse(f"{name}@{domain_name}")
    if outcome == "account-of-another":
        code, sentence = refusal(lambda: accounts.find(wanted))
        assert code == outcome
        assert domain.dn(name) in sentence
        assert str(wanted) in sentence
        assert values["mail"].format(name) in sentence
    else:
        assert bool(accounts.find(wanted)) == (outcome == "found")


@pytest.mark.parametrize("name", ["administrator", "krbtgt", "guest"])
def test_the_accounts_of_the_directory_itself_are_no_mailboxes(accounts: DirectoryAccounts, name: str) -> None:
    assert accounts.find(Address.parse(f"{name}@example.com")) is None


@pytest.mark.parametrize("form", ["{0}@{1}", "{2}\\{0}", "CN={0},{3}"])
@pytest.mark.parametrize("way", ["userPrincipalName", "mail", "sAMAccountName"])
def test_the_account_of_ldapuser_is_no_mailboxes_whatever_finds_it(
    settings: Directory, domain: "Domain", form: str, way: str
) -> None:
    name = domain.make_user(f"s{uuid.uuid4().hex[:10]}")
    mailbox = name
    if way == "mail":
        mailbox = f"post-{name}"
        domain.modify(domain.dn(name), mail=f"{mailbox}@example.com")
    wanted = Address.parse(f"{mailbox}@{domain.realm if way == 'userPrincipalName' else 'example.com'}")
    user = form.format(name, domain.realm.lower(), domain.name, domain.ou)
    service = DirectoryAccounts(dataclasses.replace(settings, ldapuser=user), f"Passw0rd!{name}")
    code, sentence = refusal(lambda: service.find(wanted))
    assert code == "account-not-for-mail"
    assert domain.dn(name) in sentence
    assert DirectoryAccounts(settings, SERVICE).find(wanted)  # to others it is an account as any


def test_accounts_are_looked_for_below_the_base_that_is_set(
    settings: Directory, domain: "Domain", address: Address
) -> None:
    name = domain.make_user(mail=str(address))
    for base, is_there in ((domain.ou, True), (f"CN=Users,{domain.base}", False)):
        below = dataclasses.replace(settings, ldapbase=base)
        assert bool(DirectoryAccounts(below, SERVICE).find(address)) == is_there
        assert bool(run(below, lambda method: method.find(name))) == is_there
    nowhere = dataclasses.replace(settings, ldapbase=f"OU=Nowhere,{domain.base}")
    code, sentence = refusal(lambda: DirectoryAccounts(nowhere, SERVICE).find(address))
    assert code == "directory-out-of-reach"
    assert "OU=Nowhere" in sentence


# Administrators


@pytest.mark.parametrize(
    ("group", "members"),
    [
        ("pop-users", "alice bob carol"),
        ("mail-staff", "alice bob carol"),
        ("ORG-Everyone", "alice bob carol heidi"),
        ("CN=org-everyone,OU=Mail Users,DC=ad,DC=winpop,DC=test", "alice bob carol heidi"),
        ("winpop-admins", "alice"),
        ("Domain Users", "alice bob carol heidi erin"),
        ("no such group", ""),
        ("*", ""),
        ("alice", ""),
        ("", ""),
    ],
)
def test_members_of_the_administrators_group_are_found_also_by_other_groups(
    settings: Directory, accounts: DirectoryAccounts, group: str, members: str
) -> None:
    having = dataclasses.replace(settings, ldapadmins=group)
    names = ("alice", "bob", "carol", "heidi", "erin", "nobody-at-all")

    async def work(method: ActiveDirectory) -> list[str]:
        assert not await method.is_administrator(str(uuid.uuid4()))
        return [name for name in names if await method.is_administrator(name)]

    assert run(having, work) == [name for name in names if name in members.split()]
    tool = DirectoryAccounts(having, SERVICE)
    alice = found(accounts, "alice@mail.test")
    assert tool.is_administrator(alice) == tool.is_administrator("WINPOP\\alice") == ("alice" in members)


# Accounts


def test_an_account_is_made_logs_on_gets_another_password_and_is_deleted(
    settings: Directory, admin: DirectoryAccounts, domain: "Domain", address: Address
) -> None:
    account = admin.create(address, b"F1rst-Passw0rd")
    assert admin.find(address) == account
    described = admin.describe(account)
    assert described.dn == f"CN={address.mailbox},CN=Users,{domain.base}"
    assert (described.user_principal_name, described.sam_account_name) == (str(address), address.mailbox)
    assert described.states == ()
    assert check(settings, account, "F1rst-Passw0rd") == [Right()]
    admin.set_password(account, "Zweites-Passwört-2".encode())
    # A domain goes on taking the password before for an hour, over NTLM only.
    assert check(settings, account, "Zweites-Passwört-2", "F1rst-Passw0rd") == [Right(), Wrong()]
    admin.delete(account)
    assert admin.find(address) is None
    assert check(settings, account, "Zweites-Passwört-2") == [Wrong("no account")]
    admin.delete(account)
    assert refusal(lambda: admin.set_password(account, b"Th1rd-Passw0rd"))[0] == "no-such-account"
    assert refusal(lambda: admin.describe(account))[0] == "no-such-account"


def test_an_account_is_made_where_the_setting_says(settings: Directory, domain: "Domain", address: Address) -> None:
    user = f"svc-admin@{domain.realm}"
    there = DirectoryAccounts(dataclasses.replace(settings, ldapuser=user, ldapcreatein=domain.ou), ADMIN)
    account = there.create(address, b"F1rst-Passw0rd")
    assert there.describe(account).dn.endswith(domain.ou)
    there.delete(account)
    nowhere = dataclasses.replace(settings, ldapuser=user, ldapcreatein=f"OU=Nowhere,{domain.base}")
    code, sentence = refusal(lambda: DirectoryAccounts(nowhere, ADMIN).create(address, b"F1rst-Passw0rd"))
    assert code == "no-such-container"
    assert "OU=Nowhere" in sentence


def test_the_pre_windows_2000_name_is_altered_where_somebody_has_it(admin: DirectoryAccounts) -> None:
    """Documented: the same user name in two domains."""
    mailbox = f"m{uuid.uuid4().hex[:8]}-with-a-very-long-name"
    made = [
        admin.create(Address.parse(f"{mailbox}@{domain}"), b"F1rst-Passw0rd")
        for domain in ("example.com", "mail.test", "third.test")
    ]
    names = [admin.describe(account).sam_account_name for account in made]
    assert names == [mailbox[:20], f"{mailbox[:19]}1", f"{mailbox[:19]}2"]
    assert [admin.find(Address.parse(f"{mailbox}@mail.test"))] == made[1:2]
    for account in made:
        admin.delete(account)


def test_a_name_that_only_a_container_has_is_altered_too(
    settings: Directory, domain: "Domain", address: Address
) -> None:
    """The pre-Windows 2000 name is free, but something else is called so where the account is to be."""
    domain.make_user(address.mailbox)
    domain.modify(domain.dn(address.mailbox), sAMAccountName=f"x{address.mailbox}")
    there = dataclasses.replace(settings, ldapuser=f"svc-admin@{domain.realm}", ldapcreatein=domain.ou)
    account = DirectoryAccounts(there, ADMIN).create(address, b"F1rst-Passw0rd")
    assert DirectoryAccounts(there, ADMIN).describe(account).sam_account_name == f"{address.mailbox}1"


def test_an_account_that_is_there_is_not_made_again(admin: DirectoryAccounts, domain: "Domain") -> None:
    name = domain.make_user()
    code, sentence = refusal(lambda: admin.create(Address.parse(f"{name}@{domain.realm}"), b"F1rst-Passw0rd"))
    assert code == "account-exists"
    assert name in sentence


@pytest.mark.parametrize("password", [b"abc", b"alllowercaseletters", b"\xff\xfe-Passw0rd", b""])
def test_a_password_that_the_domain_does_not_take_is_refused_and_not_told(
    admin: DirectoryAccounts, address: Address, password: bytes
) -> None:
    code, sentence = refusal(lambda: admin.create(address, password))
    assert code == "password-refused"
    assert not password or password.decode("latin-1") not in sentence
    assert admin.find(address) is None
    account = admin.create(address, b"F1rst-Passw0rd")
    assert refusal(lambda: admin.set_password(account, password))[0] == "password-refused"
    admin.delete(account)


def test_an_account_that_may_look_only_is_told_that_it_may_not_change(
    settings: Directory, accounts: DirectoryAccounts, address: Address
) -> None:
    alice = found(accounts, "alice@mail.test")
    for work in (
        lambda: accounts.create(address, b"F1rst-Passw0rd"),
        lambda: accounts.set_password(alice, b"F1rst-Passw0rd"),
        lambda: accounts.delete(alice),
    ):
        with pytest.raises(Refusal) as caught:
            work()
        assert (caught.value.code, caught.value.kind) == ("directory-not-permitted", Kind.NOT_PERMITTED)
    assert check(settings, alice, "Passw0rd!alice") == [Right()]


@pytest.mark.parametrize("account", ["", "alice", "*", str(uuid.UUID(int=0)), "cd291460"])
def test_an_identifier_that_is_none_is_nobody(settings: Directory, accounts: DirectoryAccounts, account: str) -> None:
    assert check(settings, account, "Passw0rd!alice") == [Wrong("no account")]
    assert refusal(lambda: accounts.describe(account))[0] == "no-such-account"


# Connections


def test_start_tls_works_and_a_clear_connection_is_not_made(settings: Directory, domain: "Domain") -> None:
    secured = dataclasses.replace(settings, ldapservers=(f"ldap://{domain.ip}",))  # RFC 4511 §4.14
    assert DirectoryAccounts(secured, SERVICE).reachable() == {f"ldap://{domain.ip}": None}
    alice = found(DirectoryAccounts(secured, SERVICE), "alice@mail.test")
    assert check(secured, alice, "Passw0rd!alice") == [Right()]


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
def test_a_certificate_of_an_authority_that_is_not_ours_is_refused(
    settings: Directory, domain: "Domain", tmp_path: Path, scheme: str
) -> None:
    ours = directories.trust(tmp_path)
    other = dataclasses.replace(settings, ldapservers=(f"{scheme}://{domain.ip}",), ldapca=ours.ca)
    sentence = DirectoryAccounts(other, SERVICE).reachable()[f"{scheme}://{domain.ip}"]
    assert sentence is not None
    assert "certificate" in sentence
    code, told = refusal(lambda: DirectoryAccounts(other, SERVICE).find(Address.parse("alice@mail.test")))
    assert (code, told) == ("directory-out-of-reach", sentence)


def test_a_certificate_of_another_host_is_refused(settings: Directory, domain: "Domain") -> None:
    with Server(relay(domain.ip, 636)) as server:
        uri = f"ldaps://localhost:{server.port}"
        reached = DirectoryAccounts(dataclasses.replace(settings, ldapservers=(uri,)), SERVICE).reachable()
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in (reached[uri] or "")


@pytest.mark.parametrize("first", ["refuses", "silent", "closes"])
def test_the_next_domain_controller_serves_while_the_first_is_down(
    settings: Directory, accounts: DirectoryAccounts, domain: "Domain", first: str
) -> None:
    alice = found(accounts, "alice@mail.test")
    bad = Server(directories.silent if first == "silent" else directories.closes)
    if first == "refuses":
        bad.stop()
    with bad:
        two = dataclasses.replace(settings, ldapservers=(bad.uri(), domain.uri), ldaptimeout=1)
        assert check(two, alice, "Passw0rd!alice", "Passw0rd!alice") == [Right(), Right()]
        assert DirectoryAccounts(two, SERVICE).reachable()[domain.uri] is None


def test_a_service_account_with_another_password_is_one_sentence(settings: Directory, domain: "Domain") -> None:
    name = domain.make_user()
    wrong = DirectoryAccounts(dataclasses.replace(settings, ldapuser=f"{name}@{domain.realm}"), "Wr0ng-Passw0rd")
    code, sentence = refusal(lambda: wrong.find(Address.parse("alice@mail.test")))
    assert code == "directory-out-of-reach"
    assert "winpop set ldapuser NAME /password" in sentence
    assert "Wr0ng" not in sentence


def test_a_connection_that_is_cut_at_any_octet_is_a_reason_not_a_wrong_password(
    settings: Directory, accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    alice = found(accounts, "alice@mail.test")

    async def work(method: ActiveDirectory) -> None:
        assert await method.check(alice, "alice", b"Passw0rd!alice") == Right()
        for pause in (0, 0.001, 0.003, 0.01, 0.02, 0.03):
            asked = asyncio.create_task(method.check(alice, "alice", b"Passw0rd!alice"))
            await asyncio.sleep(pause)
            server.cut()
            assert isinstance(await asked, Right | CannotSay)
        assert await method.check(alice, "alice", b"Passw0rd!alice") == Right()

    with Server(relay(domain.ip, 636)) as server:
        run(dataclasses.replace(settings, ldapservers=(server.uri(),)), work)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_with_a_real_directory_it_keeps(
    law: Law, settings: Directory, accounts: DirectoryAccounts, domain: "Domain"
) -> None:
    names = [domain.make_user(), domain.make_user()]
    one, other = (
        Account(found(accounts, f"{name}@{domain.realm}"), name, f"Passw0rd!{name}".encode()) for name in names
    )
    dead = dataclasses.replace(settings, ldapservers=("ldaps://127.0.0.1:1",), ldaptimeout=1)
    subject = Subject(
        lambda: ActiveDirectory(settings, SERVICE),
        lambda: ActiveDirectory(dead, SERVICE),
        one,
        other,
        str(uuid.uuid4()),
        knows_accounts=True,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(law(subject))


@pytest.mark.timeout(300)  # the first time it makes a domain
def test_a_domain_controller_that_is_started_anew_serves_again_without_a_word() -> None:
    """It has a domain of its own, since no other test could use the one they share."""
    from real.directory import alone, require_samba, running  # when pytest has imported it

    require_samba()
    with alone("restarted") as environment, running(environment) as domain:
        user = f"svc-winpop@{domain.realm}"
        settings = Directory((domain.uri,), str(domain.ca), ldapuser=user, ldaptimeout=2)
        alice = found(DirectoryAccounts(settings, SERVICE), "alice@mail.test")

        async def work(method: ActiveDirectory) -> None:
            assert await method.check(alice, "alice", b"Passw0rd!alice") == Right()
            await asyncio.to_thread(domain.script, "down")
            assert isinstance(await method.check(alice, "alice", b"Passw0rd!alice"), CannotSay)
            await asyncio.to_thread(domain.script, "up")
            started = time.monotonic()
            while not isinstance(await method.check(alice, "alice", b"Passw0rd!alice"), Right):
                assert time.monotonic() - started < 20
            assert await method.check(alice, "alice", b"Wr0ng-Passw0rd") == Wrong()
            assert await method.check(alice, "alice", b"Passw0rd!alice") == Right()  # so failures begin anew

        run(settings, work)
