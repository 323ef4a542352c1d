"""What the word `serve` takes that this version cannot do yet."""

from running import Service
from winpop.db.home import Home


def test_a_listener_that_is_not_built_is_named_in_the_log_and_the_others_serve(home: Home) -> None:
    with Service(home.path, "--submission", "127.0.0.1:0") as service:
        assert set(service.ports) == {"pop3", "pop3s", "smtp", "lmtp"}
        service.send("alice@example.com", "Subject: x\r\n\r\nx\r\n")
        assert service.log_on("alice@example.com").stat()[0] == 1
    lines = [line for line in service.log.read_text().splitlines() if "not built" in line]
    assert len(lines) == 1
    assert "listener=submission" in lines[0]
