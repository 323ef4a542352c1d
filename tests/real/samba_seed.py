"""Puts into a new Samba domain what the tests find there. Run by samba_ad.sh with the distribution's own Python.

Every password is `Passw0rd!` and the account's name. These accounts are never given a wrong password: three lock an
account out for half an hour, so a test that fails a logon makes an account of its own.
"""

import sys
import time

import ldb  # type: ignore[import-not-found]  # of the package python3-ldb, not on PyPI
from samba.auth import system_session  # type: ignore[import-not-found]  # of the package python3-samba, not on PyPI
from samba.param import LoadParm  # type: ignore[import-not-found]  # see above
from samba.samdb import SamDB  # type: ignore[import-not-found]  # see above

parameters = LoadParm()
parameters.load(sys.argv[1])
directory = SamDB(session_info=system_session(), lp=parameters)
base = str(directory.domain_dn())
realm = parameters.get("realm").lower()

SECOND = 10**7
"""Times in the directory are counted in tenths of a microsecond since 1601; spans are negative."""
LONG_AGO = (int(time.time()) - 400 * 86400 + 11644473600) * SECOND
# pwdLastSet takes 0 and -1 only; this control leaves out the module that says so.
UNCHECKED = ["local_oid:1.3.6.1.4.1.7165.4.3.12:0"]
OU = "OU=Mail Users"


def modify(dn: object, controls: list[str] | None = None, **values: str | list[str]) -> None:
    message = ldb.Message(ldb.Dn(directory, str(dn)))
    for name, value in values.items():
        message[name] = ldb.MessageElement(value, ldb.FLAG_MOD_REPLACE, name)
    directory.modify(message, controls or [])


def user(name: str, upn: str = "", **more: str) -> object:
    directory.newuser(name, f"Passw0rd!{name}", userou=OU, mailaddress=f"{name}@mail.test", **more)
    found = directory.search(base, ldb.SCOPE_SUBTREE, f"(sAMAccountName={name})", ["dn"])[0].dn
    modify(found, userPrincipalName=upn or f"{name}@{realm}")
    return found


modify(
    base,
    lockoutThreshold="3",
    lockoutDuration=str(-1800 * SECOND),
    lockOutObservationWindow=str(-1800 * SECOND),
    maxPwdAge=str(-42 * 86400 * SECOND),
    minPwdAge="0",
    pwdHistoryLength="0",
)
# Organisations whose mail domain is not the directory's have a second suffix.
modify(f"CN=Partitions,CN=Configuration,{base}", uPNSuffixes=["mail.test", "example.com"])
directory.create_ou(f"{OU},{base}")

user("alice", givenname="Alice", surname="Able")
user("bob", upn="robert@mail.test")  # another name than the pre-Windows 2000 one
user("jürgen")
user("heidi")
modify(user("carol"), userAccountControl="514")  # disabled
modify(user("erin"), UNCHECKED, pwdLastSet=str(LONG_AGO))  # password expired
modify(user("frank"), pwdLastSet="0")  # must change the password
modify(user("gina"), accountExpires=str(LONG_AGO))  # account expired
user("svc-winpop")  # looks things up, and has no rights beyond that
# Makes accounts; in real life rights on one unit would do.
user("svc-admin")
# Has the service's Kerberos name.
modify(user("svc-pop"), servicePrincipalName=["pop/mail.winpop.test", "pop/localhost"])


def group(name: str, *members: str) -> None:
    directory.newgroup(name, groupou=OU)
    if members:
        directory.add_remove_group_members(name, list(members), add_members_operation=True)


group("pop-users", "alice", "bob", "carol")
group("mail-staff", "pop-users")
group("org-everyone", "mail-staff", "heidi")
group("winpop-admins", "alice")
directory.add_remove_group_members("Domain Admins", ["svc-admin"], add_members_operation=True)
print("seeded", base)  # noqa: T201 - read in seed.log where something goes wrong
