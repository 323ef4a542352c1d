"""`make run`: the whole service on loopback ports, with a domain, two mailboxes and a message to try it on.

Everything goes through the tool and the wire, as a user would do it. The mailboxes get new random passwords at each
run, since no password of ours should ever stand in a document. Ends with Ctrl-C or SIGTERM, and its service with it;
the home, `.demo` unless a third argument names another, stays.
"""

import json
import secrets
import shutil
import signal
import smtplib
import subprocess
import sys
from pathlib import Path

HOME = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(__file__).resolve().parent.parent / ".demo"  # noqa: PLR2004
WINPOP = Path(sys.executable).with_name("winpop")
DOMAIN = "example.com"
ALICE, BOB = f"alice@{DOMAIN}", f"bob@{DOMAIN}"


def main(pop3: str, smtp: str) -> int:
    """Set up, serve, deliver, explain, wait."""
    password = set_up()
    command = [str(WINPOP), "--home", str(HOME), "--json", "serve", "--pop3", pop3, "--smtp", smtp]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        signal.signal(signal.SIGTERM, lambda *_: service.terminate())
        assert service.stdout is not None
        ready = json.loads(service.stdout.readline() or "{}").get("ready")
        if not ready:
            return service.wait()
        try:
            deliver(ready["smtp"])
            explain(ready["pop3"], ready["smtp"], password)
            return service.wait()
        except KeyboardInterrupt:
            return service.wait()
        finally:
            service.terminate()  # whatever went wrong; one that has ended does not mind


def set_up() -> str:
    """Make the domain and the mailboxes where they are missing, give both a new password, and unlock."""
    password = secrets.token_urlsafe(9)
    existing = json.loads(winpop("--json", "list")) if HOME.exists() else {"domains": []}
    if DOMAIN not in [domain["domain"] for domain in existing["domains"]]:
        winpop("add", DOMAIN)
        for mailbox in (ALICE, BOB):
            winpop("add", mailbox, "/createuser", given=password)
    else:
        for mailbox in (ALICE, BOB):
            winpop("changepwd", mailbox, given=password)
        winpop("unlock", DOMAIN)
    return password


def deliver(smtp: str) -> None:
    """Bring alice a message, as any mail server would."""
    host, _, port = smtp.rpartition(":")
    message = (
        f"From: Bob <{BOB}>\r\nTo: Alice <{ALICE}>\r\nSubject: Welcome to winpop\r\n\r\n"
        "This message came in by SMTP and lies durably in the mail store.\r\n"
    )
    with smtplib.SMTP(host, int(port), timeout=10) as client:
        client.sendmail(BOB, [ALICE], message)


def explain(pop3: str, smtp: str, password: str) -> None:
    """Print what can be pasted into another terminal."""
    tool = f"{WINPOP} --home {HOME}"
    if shutil.which("curl"):
        fetch = f"curl -sS pop3://{pop3}/1 -u {ALICE}:{password}"
        send = (
            f"printf 'Subject: hello\\r\\n\\r\\nHi Alice\\r\\n' | "
            f"curl -sS smtp://{smtp} --mail-from {BOB} --mail-rcpt {ALICE} -T -"
        )
    else:
        host, _, port = pop3.rpartition(":")
        fetch = (
            f"python3 -c \"import poplib; p = poplib.POP3('{host}', {port}); p.user('{ALICE}'); "
            f"p.pass_('{password}'); print(*(line.decode() for line in p.retr(1)[1]), sep=chr(10))\""
        )
        host, _, port = smtp.rpartition(":")
        send = (
            f"python3 -c \"import smtplib; smtplib.SMTP('{host}', {port})"
            f".sendmail('{BOB}', '{ALICE}', 'Subject: hello\\r\\n\\r\\nHi Alice\\r\\n')\""
        )
    print(f"""
winpop serves {DOMAIN}: POP3 on {pop3}, SMTP on {smtp}, everything in {HOME}
Mailboxes {ALICE} and {BOB}, password {password}

Paste into another terminal:

  fetch     {fetch}
  lock      {tool} lock {DOMAIN}
  unlock    {tool} unlock {DOMAIN}
  send      {send}
  look      {tool} list {DOMAIN}

While the domain is locked, fetching is refused and mail still comes in; after the unlock it is all there.
Ctrl-C stops the service.
""", flush=True)  # fmt: skip


def winpop(*arguments: str, given: str = "") -> str:
    """Run the tool; end with its own sentence where it refuses."""
    command = [str(WINPOP), "--home", str(HOME), *arguments]
    result = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
