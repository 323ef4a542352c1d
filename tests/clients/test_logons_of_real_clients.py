"""TLS and every logon, with programs that we did not write, as people have them.

Each mechanism is held against at least one implementation that is not ours: SCRAM against GNU SASL (mpop, mutt), the
others against those of curl, fetchmail, mpop, mutt, getmail, perl, ruby and Python. What was said is read in what the
clients tell themselves, so that a test cannot pass by another mechanism than the one it names.

What these clients cannot do, as measured with those of Debian 12: curl has no SCRAM, and takes OAUTHBEARER where both
it and XOAUTH2 are offered; mutt and neomutt choose a -PLUS mechanism by themselves and then cannot bind it, so each is
told which to use; the binding of -PLUS that they could do (tls-exporter) is none that Python's ssl can give.
"""

import base64
import json
import poplib
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from clients.host import ALICE, SECRET, Host, attempt, client, is_whole, missing, private, run, running_host

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The service, once for all tests of this file."""
    with running_host(tmp_path_factory.mktemp("host")) as running:
        yield running


# --- curl ---


def curl(host: Host, home: Path, *words: str, place: str = "pop3s") -> CompletedProcess[str]:
    port = host.tls if place == "pop3s" else host.clear
    command = (client("curl"), "-sSv", "--cacert", str(host.authority), f"{place}://localhost:{port}/1")
    return attempt(*command, *words, home=home)


def said(trace: str) -> list[str]:
    """Return the commands that curl says it has sent."""
    return re.findall(r"^> ([^\r\n]*)", trace, re.MULTILINE)


def test_curl_over_tls_from_the_first_octet(host: Host, tmp_path: Path) -> None:
    result = curl(host, tmp_path, "-u", f"{ALICE}:{SECRET}")
    assert result.returncode == 0, result.stderr
    assert is_whole(result.stdout)
    assert "SSL certificate verify ok" in result.stderr
    assert "STLS" not in said(result.stderr)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_curl_begins_tls_and_logs_on_with(mechanism: str, host: Host, tmp_path: Path) -> None:
    words = ("--ssl-reqd", "-u", f"{ALICE}:{SECRET}", "--login-options", f"AUTH={mechanism}")
    result = curl(host, tmp_path, *words, place="pop3")
    assert result.returncode == 0, result.stderr
    assert is_whole(result.stdout)
    commands = said(result.stderr)
    assert commands[:4] == ["CAPA", "STLS", "CAPA", f"AUTH {mechanism}"]
    assert "STLS" not in result.stderr.rpartition("SSL connection using")[2]  # no longer listed in TLS


def test_curl_sends_an_initial_response(host: Host, tmp_path: Path) -> None:
    result = curl(host, tmp_path, "--sasl-ir", "-u", f"{ALICE}:{SECRET}", "--login-options", "AUTH=PLAIN")
    assert result.returncode == 0, result.stderr
    assert is_whole(result.stdout)
    assert f"AUTH PLAIN {base64.b64encode(f'{chr(0)}{ALICE}{chr(0)}{SECRET}'.encode()).decode()}" in said(result.stderr)


def test_curl_logs_on_with_apop(host: Host, tmp_path: Path) -> None:
    result = curl(host, tmp_path, "-u", f"{ALICE}:{SECRET}", "--login-options", "AUTH=+APOP", place="pop3")
    assert result.returncode == 0, result.stderr
    assert is_whole(result.stdout)
    assert any(re.fullmatch(rf"APOP {ALICE} [0-9a-f]{{32}}", command) for command in said(result.stderr))


@pytest.mark.parametrize("initial", [(), ("--sasl-ir",)])
def test_curl_logs_on_with_a_token(initial: tuple[str, ...], host: Host, tmp_path: Path) -> None:
    result = curl(host, tmp_path, *initial, "-u", f"{ALICE}:", "--oauth2-bearer", host.token())
    assert result.returncode == 0, result.stderr
    assert is_whole(result.stdout)
    assert any(command.startswith("AUTH OAUTHBEARER") for command in said(result.stderr))


@pytest.mark.parametrize("claims", [{"exp": 1}, {"aud": "another"}, {"iss": "https://other.example"}, {"email": ""}])
def test_curl_is_told_that_a_token_is_not_taken(claims: dict[str, object], host: Host, tmp_path: Path) -> None:
    result = curl(host, tmp_path, "-u", f"{ALICE}:", "--oauth2-bearer", host.token(**claims))
    assert result.returncode == 67, result.stderr  # curl: login denied
    assert "-ERR [AUTH]" in result.stderr
    [*_, challenge] = re.findall(r"^< \+ ([A-Za-z0-9+/=]+)", result.stderr, re.MULTILINE)
    assert json.loads(base64.b64decode(challenge))["status"] == "invalid_token"
    assert said(result.stderr)[-1] == "AQ=="  # as RFC 7628 §3.2.3 wants it


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "+APOP"])
def test_curl_is_refused_with_a_wrong_password(mechanism: str, host: Host, tmp_path: Path) -> None:
    words = ("-u", f"{ALICE}:wrong", "--login-options", f"AUTH={mechanism}")
    result = curl(host, tmp_path, *words, place="pop3" if mechanism == "+APOP" else "pop3s")
    assert result.returncode == 67, result.stderr
    assert "-ERR [AUTH] The name or the password is wrong" in result.stderr


def test_curl_does_not_take_a_certificate_that_it_was_not_told_of(host: Host, tmp_path: Path) -> None:
    url = f"pop3s://localhost:{host.tls}/1"
    result = attempt(client("curl"), "-sS", "--cacert", str(host.other), url, "-u", f"{ALICE}:{SECRET}", home=tmp_path)
    assert result.returncode == 60, result.stderr  # curl: the certificate cannot be verified


# --- fetchmail ---


def fetchmail(home: Path, protocol: str, port: int, words: str, authentication: str = "any") -> str:
    """Fetch, and keep, what alice has; return the dialogue as fetchmail tells it."""
    inbox = home / "inbox"
    text = (
        f"poll localhost protocol {protocol} port {port} auth {authentication} user {ALICE} password {SECRET} "
        f'keep fetchall {words} mda "cat >>{inbox}"\n'
    )
    rc = private(home / "fetchmailrc", text)
    told = run(client("fetchmail"), "-vv", "-f", rc, "-N", "--nosyslog", "--pidfile", str(home / "pid"), home=home)
    assert is_whole(inbox.read_text())
    return told


def test_fetchmail_over_tls_from_the_first_octet(host: Host, tmp_path: Path) -> None:
    words = f"ssl sslcertck sslcertfile {host.authority}"
    told = fetchmail(tmp_path, "POP3", host.tls, words, "password")
    assert "verify_ok == 1" in told
    assert f"POP3> USER {ALICE}" in told


def test_fetchmail_begins_tls(host: Host, tmp_path: Path) -> None:
    words = f"sslproto 'TLS1.2+' sslcertck sslcertfile {host.authority}"
    told = fetchmail(tmp_path, "POP3", host.clear, words, "password")
    assert "POP3> STLS" in told
    assert re.search(r"using protocol TLSv1\.[23]", told)


def test_fetchmail_logs_on_with_apop(host: Host, tmp_path: Path) -> None:
    assert f"APOP {ALICE} " in fetchmail(tmp_path, "APOP", host.clear, "sslproto ''")


def test_fetchmail_logs_on_with_cram_md5(host: Host, tmp_path: Path) -> None:
    words = f"ssl sslcertck sslcertfile {host.authority}"
    assert "POP3> AUTH CRAM-MD5" in fetchmail(tmp_path, "POP3", host.tls, words, "cram-md5")


# --- mpop ---


def mpop(host: Host, home: Path, mechanism: str, password: str, *lines: str) -> CompletedProcess[str]:
    stls = "tls_starttls on" in lines or "tls off" in lines
    text = [
        "account default", "host localhost", f"port {host.clear if stls else host.tls}", f"user {ALICE}",
        f"password {password}", f"auth {mechanism}", "keep on", f"delivery mbox {home / 'inbox'}",
        f"uidls_file {home / 'uidls'}", *lines,
    ]  # fmt: skip
    rc = private(home / "mpoprc", "\n".join(text) + "\n")
    return attempt(client("mpop"), "--debug", "-C", rc, home=home)


@pytest.mark.parametrize("starttls", ["on", "off"])
@pytest.mark.parametrize(
    "mechanism", ["user", "plain", "login", "cram-md5", "scram-sha-1", "scram-sha-256", "oauthbearer", "xoauth2"]
)
def test_mpop_over_tls_logs_on_with(mechanism: str, starttls: str, host: Host, tmp_path: Path) -> None:
    password = host.token() if mechanism.endswith(("bearer", "oauth2")) else SECRET
    lines = ("tls on", f"tls_starttls {starttls}", f"tls_trust_file {host.authority}")
    result = mpop(host, tmp_path, mechanism, password, *lines)
    assert result.returncode == 0, result.stdout + result.stderr
    assert is_whole((tmp_path / "inbox").read_text())
    assert (f"USER {ALICE}" if mechanism == "user" else f"--> AUTH {mechanism.upper()}") in result.stdout
    assert ("--> STLS" in result.stdout) == (starttls == "on")


def test_mpop_logs_on_with_apop(host: Host, tmp_path: Path) -> None:
    result = mpop(host, tmp_path, "apop", SECRET, "tls off")
    assert result.returncode == 0, result.stdout + result.stderr
    assert is_whole((tmp_path / "inbox").read_text())
    assert f"--> APOP {ALICE} " in result.stdout


@pytest.mark.parametrize("mechanism", ["scram-sha-1", "scram-sha-256", "cram-md5", "xoauth2"])
def test_mpop_is_refused_with_what_is_wrong(mechanism: str, host: Host, tmp_path: Path) -> None:
    result = mpop(host, tmp_path, mechanism, "wrong", "tls on", "tls_starttls off", f"tls_trust_file {host.authority}")
    assert result.returncode == 77, result.stdout + result.stderr  # EX_NOPERM
    assert "[AUTH]" in result.stdout + result.stderr
    assert not (tmp_path / "inbox").exists()


# --- getmail ---


@pytest.mark.parametrize("how", ["tls", "apop"])
def test_getmail_fetches(how: str, host: Host, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    over_tls = ("SimplePOP3SSLRetriever", host.tls, f"ca_certs={host.authority}")
    kind, port, more = ("SimplePOP3Retriever", host.clear, "use_apop=true") if how == "apop" else over_tls
    (tmp_path / "getmail").mkdir()
    rc = (
        f"[retriever]\ntype={kind}\nserver=localhost\nport={port}\nusername={ALICE}\npassword={SECRET}\n{more}\n"
        f'[destination]\ntype=MDA_external\npath=/usr/bin/tee\narguments=("-a","{inbox}")\nallow_root_commands=true\n'
        "[options]\ndelete=false\ndelivered_to=false\nreceived=false\n"
    )
    private(tmp_path / "getmail" / "getmailrc", rc)
    run(client("getmail"), "--getmaildir", str(tmp_path / "getmail"), home=tmp_path)
    assert is_whole(inbox.read_text())


# --- mutt and neomutt ---

MUTTRC = """\
set certificate_file="{authority}"
set ssl_usesystemcerts=no
set ssl_force_tls=yes
set ssl_starttls=yes
set pop_pass="{password}"
set pop_delete=no
set pop_authenticators="{mechanism}"
set folder="{home}"
set spoolfile="{home}/empty"
set confirmappend=no
set copy=no
set debug_level=2
set debug_file="{home}/debug"
"""


@pytest.mark.parametrize("place", ["pop", "pops"])
@pytest.mark.parametrize(
    ("program", "mechanism"),
    [("neomutt", "user"), *(("mutt", name) for name in ("user", "plain", "cram-md5", "scram-sha-1", "scram-sha-256"))],
)
def test_a_mail_reader_opens_the_maildrop(program: str, mechanism: str, place: str, host: Host, tmp_path: Path) -> None:
    """It needs a terminal, so script gives it one; it copies the first message to a file and leaves."""
    copied = tmp_path / "copied"
    for path in (copied, tmp_path / "empty"):
        path.touch()
    rc = private(
        tmp_path / "muttrc",
        MUTTRC.format(authority=host.authority, password=SECRET, mechanism=mechanism, home=tmp_path),
    )
    url = f"{place}://{ALICE.replace('@', '%40')}@localhost:{host.tls if place == 'pops' else host.clear}"
    debug = "-d 2" if program == "mutt" else ""
    keys = f"push <copy-message>{copied}<enter><exit>"
    command = f"{client(program)} {debug} -n -F {rc} -f '{url}' -e '{keys}'"
    told = run(client("script"), "-qec", command, "/dev/null", home=tmp_path)
    assert is_whole(copied.read_text()), told
    trace = "".join(path.read_text() for path in [*tmp_path.glob("debug*"), *tmp_path.glob(".muttdebug0")])
    assert ("PASS *" if mechanism == "user" else f"> AUTH {mechanism.upper()}") in trace


# --- the libraries of perl, ruby and Python ---

PERL = """\
use Net::POP3;
my ($how, $port, $authority, $user, $secret) = @ARGV;
my @tls = (SSL_ca_file => $authority, SSL_verifycn_name => 'localhost');
my $pop = Net::POP3->new('localhost', Port => $port, Timeout => 20, SSL => ($how eq 'tls'), @tls) or die "new: $@";
$how !~ /stls/ or $pop->starttls(@tls) or die 'starttls: ' . $pop->message . $@;
my $count = $how eq 'apop' ? $pop->apop($user, $secret)
    : $how eq 'stls and sasl' ? $pop->auth($user, $secret) : $pop->login($user, $secret);
defined $count or die 'logon: ' . $pop->message;
print @{$pop->get(1)};
$pop->quit;
"""


@pytest.mark.parametrize("how", ["tls", "stls", "apop", "stls and sasl"])
def test_net_pop3_of_perl(how: str, host: Host, tmp_path: Path) -> None:
    perl = client("perl")
    for module, package in {"IO::Socket::SSL": "libio-socket-ssl-perl", "Authen::SASL": "libauthen-sasl-perl"}.items():
        if attempt(perl, f"-M{module}", "-e", "1", home=tmp_path).returncode:
            missing(module, f"sudo apt install {package}")
    port = host.tls if how == "tls" else host.clear
    fetched = run(perl, "-e", PERL, how, str(port), str(host.authority), ALICE, SECRET, home=tmp_path)
    assert is_whole(fetched)


RUBY = """\
require "net/pop"
how, port, authority, user, secret = ARGV
pop = Net::POP3.new("localhost", port.to_i, how == "apop")
pop.enable_ssl(OpenSSL::SSL::VERIFY_PEER, authority) if how == "tls"
pop.start(user, secret) { |session| session.each_mail { |mail| print mail.pop } }
"""


@pytest.mark.parametrize("how", ["tls", "apop"])
def test_net_pop_of_ruby(how: str, host: Host, tmp_path: Path) -> None:
    port = host.tls if how == "tls" else host.clear
    fetched = run(client("ruby"), "-e", RUBY, how, str(port), str(host.authority), ALICE, SECRET, home=tmp_path)
    assert is_whole(fetched)


@pytest.mark.parametrize("how", ["tls", "stls", "apop"])
def test_poplib_of_python(how: str, host: Host) -> None:
    context = ssl.create_default_context(cafile=host.authority)
    if how == "tls":
        session: poplib.POP3 = poplib.POP3_SSL("localhost", host.tls, timeout=20, context=context)
    else:
        session = poplib.POP3("localhost", host.clear, timeout=20)
    try:
        if how == "stls":
            session.stls(context)
        if how == "apop":
            session.apop(ALICE, SECRET)
        else:
            session.user(ALICE)
            session.pass_(SECRET)
        assert is_whole(b"\n".join(session.retr(1)[1]).decode())
        session.quit()
    finally:
        session.close()


def test_no_secret_of_a_client_stands_in_the_log(host: Host, tmp_path: Path) -> None:
    for mechanism, secret in (("PLAIN", SECRET), ("LOGIN", SECRET), ("PLAIN", f"{SECRET}-wrong"), ("LOGIN", "CaNaRy")):
        curl(host, tmp_path, "-u", f"{ALICE}:{secret}", "--login-options", f"AUTH={mechanism}")
    curl(host, tmp_path, "-u", f"{ALICE}:", "--oauth2-bearer", f"{SECRET}.{SECRET}.{SECRET}")
    log = host.service.log.read_text()
    assert log.count(ALICE) >= 3  # the refusals at least
    forms = [base64.b64encode(b"\0" * n + SECRET.encode())[4:16].decode() for n in range(3)]
    assert not [form for form in ("CaNaRy", *forms) if form in log]
