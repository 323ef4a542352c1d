"""TLS in a worker: the certificates as it shows them now, and what a connection can tell of its handshake.

A client gets the certificate for the name that it asks for (SNI, RFC 6066 §3), else the default. Invariants: what is in
the rows is taken without a restart, and a row that cannot be loaded changes nothing of what was shown before; tickets
from before a change are of no use after it, so a session that is resumed was never shown another certificate, nor
came in by an authority that is no longer trusted.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from winpop.auth.certificates import Facts, Pair, client_addresses, facts
from winpop.auth.tls_contexts import PROTOCOL, Context, make_context
from winpop.db.contract import Reader, Row
from winpop.directory import certificates
from winpop.directory.certificates import CLIENTS, SERVER, Stored
from winpop.telemetry.log import Log
from winpop.terms.refusals import Refusal

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class _Shown:
    """A pair that clients can be shown."""

    pair: Pair
    facts: Facts
    context: Context = field(repr=False)


class Tls:
    """The certificates of one worker. Connections begin with `context`; the right one for the name comes by itself."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._state: tuple[Row, ...] | None = None
        self._shown: dict[int, _Shown] = {}
        self._default: int | None = None
        self._authorities = ""
        self._clients: tuple[Facts, ...] = ()
        self._by_name: dict[str, Context] = {}
        self._reminded: dict[str, float] = {}

    @property
    def context(self) -> Context | None:
        """The context with which a handshake begins; None where there is no certificate, and so no TLS."""
        return None if self._default is None else self._shown[self._default].context

    @property
    def takes_clients(self) -> bool:
        """Whether clients may show certificates, so that EXTERNAL can be offered."""
        return bool(self._authorities)

    def take(self, reader: Reader) -> None:
        """Take the certificates as they are now, if any has changed. Raises `Refusal` (those of the engine)."""
        state = certificates.state(reader)
        if state != self._state:
            self._take_authorities(certificates.every(reader, CLIENTS))
            self._take_pairs(certificates.every(reader, SERVER))
            self._state = state
        self.remind()

    def remind(self) -> None:
        """Log, once a day, which certificates have expired or soon will."""
        now = self._clock()
        for about in (*(shown.facts for shown in self._shown.values()), *self._clients):
            name = ", ".join(about.names) or about.subject
            if about.ends_soon(now) and abs(now - self._reminded.get(name, -_DAY)) >= _DAY:
                self._reminded[name] = now
                days = about.days_left(now)
                detail = f"expires in {days} days; get a new one" if days >= 0 else "has expired; get a new one"
                self._log.warning("certificate", name=name, detail=detail)

    def _take_authorities(self, rows: list[Stored]) -> None:
        """Take those that clients' certificates must be signed by; the ones before are kept where these are damaged."""
        chain = "".join(row.chain for row in rows)
        if chain == self._authorities:
            return
        try:
            clients = facts(chain) if chain else ()
            if chain:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=chain)
        except (Refusal, OSError, ValueError) as error:
            self._damaged("the authorities of clients' certificates cannot be loaded; what held before, holds", error)
            return
        self._authorities, self._clients = chain, clients
        for number, shown in self._shown.items():
            self._shown[number] = self._show(shown.pair, shown.facts)

    def _take_pairs(self, rows: list[Stored]) -> None:
        """Take the pairs of the rows. A row with a known identifier is known: rows are not changed."""
        shown: dict[int, _Shown] = {}
        whole = True
        for row in rows:
            known = self._shown.get(row.id)
            try:
                shown[row.id] = known or self._load(row)
            except (Refusal, OSError, ValueError) as error:
                whole = False
                self._damaged(f"the pair with the id {row.id} cannot be loaded; what was shown, is shown", error)
        if not whole:
            shown = self._shown | shown  # the damaged one may have come in the place of one of these
        default = next((row.id for row in rows if row.is_default and row.id in shown), self._default)
        if default not in shown:
            default = max(shown, default=None)
        if default is not None:
            # Its context has the keys of the tickets for all.
            shown[default] = self._show(shown[default].pair, shown[default].facts)
            shown[default].context.sni_callback = self._choose
        self._shown, self._default = shown, default
        self._by_name = {name: shown[row].context for row in sorted(shown) for name in shown[row].facts.names}

    def _load(self, row: Stored) -> _Shown:
        return self._show(Pair(row.chain, row.private_key), facts(row.chain)[0])

    def _show(self, pair: Pair, about: Facts) -> _Shown:
        return _Shown(pair, about, make_context(pair, about.end_point, self._authorities))

    def _choose(self, ssl_object: ssl.SSLObject, name: str | None, _initial: ssl.SSLContext) -> None:
        """Show the certificate for the name; a wildcard stands for one label (RFC 9525 §6.3)."""
        host = (name or "").lower().rstrip(".")
        wildcard = "*." + host.partition(".")[2]
        context = self._by_name.get(host) or self._by_name.get(wildcard) or self.context
        if context is not None:
            ssl_object.context = context

    def _damaged(self, what: str, error: Exception) -> None:
        why = error.sentence if isinstance(error, Refusal) else getattr(error, "reason", None) or type(error).__name__
        self._log.critical("certificate", detail=what, error=why)


def alpn_is_right(ssl_object: ssl.SSLObject) -> bool:
    """Tell whether the client meant this protocol; where not, its connection is to be ended before a byte is said.

    RFC 7301 §3.2 would end the handshake, and the standard library cannot: so other known names are agreed to, and
    told by that. A name that nobody has registered is as good as none.
    """
    return ssl_object.selected_alpn_protocol() in {None, PROTOCOL}


def bindings(ssl_object: ssl.SSLObject) -> dict[str, bytes]:
    """Return the channel bindings that there are, by their registered names.

    tls-server-end-point (RFC 5929 §4.1) is of the certificate that was shown, also when it has been replaced since;
    tls-exporter (RFC 9266 §2) is there where Python can give it, and with TLS 1.3, where it is always safe.
    """
    found: dict[str, bytes] = {}
    context = ssl_object.context
    if isinstance(context, Context) and context.end_point is not None:
        found["tls-server-end-point"] = context.end_point
    if "tls-exporter" in ssl.CHANNEL_BINDING_TYPES and ssl_object.version() == "TLSv1.3":
        exported = ssl_object.get_channel_binding("tls-exporter")
        if exported:
            found["tls-exporter"] = exported
    return found


def client_names(ssl_object: ssl.SSLObject) -> list[str]:
    """Return the e-mail addresses in the certificate that the client has proved to be its own, as they are there."""
    if ssl_object.context.verify_mode == ssl.CERT_NONE:
        return []
    certificate = ssl_object.getpeercert(binary_form=True)
    return client_addresses(certificate) if certificate else []
