"""What the server says to people, in other languages than English (RFC 6856 §3, LANG).

Invariant: only the words after the status and the response code change; what programs read (numbers, response codes,
listings, messages) is the same in every language, and what has no translation is said in English.
"""

import re

LANGUAGES = {"en": "English", "de": "Deutsch", "fr": "Français"}
"""The languages by their tags (RFC 5646), and their own names for themselves."""

ENGLISH = "en"
"""What is spoken until a client asks for something else."""

_STATUS = re.compile(rb"(\+OK |-ERR )(\[[^\]]*\] )?(.+)")
_NUMBERS = re.compile(rb"(?<![^ (])[0-9]+")


def language_for(asked: bytes) -> str | None:
    """Return the tag of the language for what a client asked for, None where it is not spoken.

    `*` is whatever the server likes best (RFC 6856 §3). What is not there as a country speaks it may be there as others
    do, as RFC 4647 §3.4 looks it up.
    """
    tag = ENGLISH if asked == b"*" else asked.decode("ascii", "replace").lower()
    while tag and tag not in LANGUAGES:
        tag = tag.rpartition("-")[0]
    return tag or None


def in_language(reply: bytes, language: str) -> bytes:
    """Return a status line with its words in that language, UTF-8."""
    match = _STATUS.fullmatch(reply) if language != ENGLISH else None
    if match is None:
        return reply
    words = _TEXTS.get(_NUMBERS.sub(b"#", match[3]).decode("utf-8"), {}).get(language)
    if words is None:
        return reply
    numbers = iter(_NUMBERS.findall(match[3]))
    said = re.sub(b"#", lambda _: next(numbers), words.encode("utf-8"))
    return match[1] + (match[2] or b"") + said


def texts() -> frozenset[str]:
    """Return the English texts that have translations; a number in them is `#`."""
    return frozenset(_TEXTS)


def translations(text: str) -> dict[str, str]:
    """Return what an English text is in the other languages, by their tags."""
    return dict(_TEXTS[text])


def _both(de: str, fr: str) -> dict[str, str]:
    return {"de": de, "fr": fr}


_TEXTS = {
    "# messages (# octets)": _both("# Nachrichten (# Oktette)", "# messages (# octets)"),
    "AUTH is cancelled": _both("AUTH ist abgebrochen", "AUTH est annulé"),
    "APOP needs a mailbox address and a digest": _both(
        "APOP braucht eine Postfachadresse und einen Hashwert", "APOP demande une adresse et une empreinte"
    ),
    "An administrator has locked this domain; its mail is kept, and another password will not help": _both(
        "Diese Domäne ist vom Administrator gesperrt; die Post bleibt erhalten, ein anderes Kennwort hilft nicht",
        "L'administrateur a verrouillé ce domaine; le courrier est conservé, un autre mot de passe n'y fera rien",
    ),
    "An administrator has locked this mailbox; its mail is kept, and another password will not help": _both(
        "Dieses Postfach ist vom Administrator gesperrt; die Post bleibt erhalten, ein anderes Kennwort hilft nicht",
        "L'administrateur a verrouillé cette boîte; le courrier est conservé, un autre mot de passe n'y fera rien",
    ),
    "Another session has this mailbox open": _both(
        "Eine andere Sitzung hat dieses Postfach geöffnet", "Une autre session a ouvert cette boîte aux lettres"
    ),
    "Begin TLS": _both("TLS kann beginnen", "TLS peut commencer"),
    "Begin TLS first: passwords in clear are not accepted from your network": _both(
        "Erst TLS beginnen: Kennwörter im Klartext werden aus Ihrem Netz nicht angenommen",
        "Commencez TLS d'abord : les mots de passe en clair ne sont pas acceptés depuis votre réseau",
    ),
    "Bye": _both("Auf Wiedersehen", "Au revoir"),
    "Capabilities follow": _both("Es folgen die Fähigkeiten", "Voici les capacités"),
    "Deleted messages were not removed, try again later": _both(
        "Gelöschte Nachrichten wurden nicht entfernt, bitte später wieder versuchen",
        "Les messages supprimés n'ont pas été retirés, réessayez plus tard",
    ),
    "Languages follow": _both("Es folgen die Sprachen", "Voici les langues"),
    "Lines end with CR LF and hold no other CR or LF": _both(
        "Zeilen enden mit CR LF und enthalten sonst kein CR oder LF",
        "Les lignes finissent par CR LF et ne contiennent pas d'autre CR ou LF",
    ),
    "Logons cannot be checked now, try again later": _both(
        "Anmeldungen können jetzt nicht geprüft werden, bitte später wieder versuchen",
        "Les connexions ne peuvent pas être vérifiées, réessayez plus tard",
    ),
    "Marked as deleted": _both("Als gelöscht markiert", "Marqué comme supprimé"),
    "Mechanisms follow": _both("Es folgen die Mechanismen", "Voici les mécanismes"),
    "Message follows": _both("Es folgt die Nachricht", "Voici le message"),
    "No such message": _both("Diese Nachricht gibt es nicht", "Ce message n'existe pas"),
    "Not in this state": _both("Nicht in diesem Zustand", "Pas dans cet état"),
    "Nothing may follow STLS before TLS has begun": _both(
        "Auf STLS darf nichts folgen, bevor TLS begonnen hat", "Rien ne peut suivre STLS avant le début de TLS"
    ),
    "Now the password": _both("Jetzt das Kennwort", "Le mot de passe maintenant"),
    "PASS needs a password": _both("PASS braucht ein Kennwort", "PASS demande un mot de passe"),
    "Passwords in clear are not accepted from your network": _both(
        "Kennwörter im Klartext werden aus Ihrem Netz nicht angenommen",
        "Les mots de passe en clair ne sont pas acceptés depuis votre réseau",
    ),
    "Something went wrong here, try again later": _both(
        "Hier ist etwas schiefgegangen, bitte später wieder versuchen", "Une erreur s'est produite, réessayez plus tard"
    ),
    "TLS cannot begin here": _both("TLS kann hier nicht beginnen", "TLS ne peut pas commencer ici"),
    "TOP needs a message number and a number of lines": _both(
        "TOP braucht eine Nachrichtennummer und eine Zeilenzahl",
        "TOP demande un numéro de message et un nombre de lignes",
    ),
    "A message number is needed": _both("Es fehlt eine Nachrichtennummer", "Il faut un numéro de message"),
    "That is not base64": _both("Das ist kein Base64", "Ce n'est pas du base64"),
    "That is not how this mechanism goes": _both(
        "So geht dieser Mechanismus nicht", "Ce n'est pas ainsi que va ce mécanisme"
    ),
    "The last logon was too short a time ago": _both(
        "Die letzte Anmeldung ist noch nicht lange genug her", "La dernière connexion est trop récente"
    ),
    "The line is too long": _both("Die Zeile ist zu lang", "La ligne est trop longue"),
    "The logon took too long": _both("Die Anmeldung hat zu lange gedauert", "La connexion a pris trop de temps"),
    "The name is not UTF-8": _both("Der Name ist kein UTF-8", "Le nom n'est pas en UTF-8"),
    "The name or the password is wrong": _both(
        "Der Name oder das Kennwort ist falsch", "Le nom ou le mot de passe est faux"
    ),
    "The service is stopping, try again later": _both(
        "Der Dienst wird beendet, bitte später wieder versuchen", "Le service s'arrête, réessayez plus tard"
    ),
    "This command takes no argument": _both("Dieser Befehl hat kein Argument", "Cette commande n'a pas d'argument"),
    "This is a POP3 server": _both("Dies ist ein POP3-Server", "Ceci est un serveur POP3"),
    "This language is not spoken here": _both(
        "Diese Sprache wird hier nicht gesprochen", "Cette langue n'est pas parlée ici"
    ),
    "This mailbox is no more": _both("Dieses Postfach gibt es nicht mehr", "Cette boîte aux lettres n'existe plus"),
    "This mechanism is not offered": _both("Dieser Mechanismus wird nicht angeboten", "Ce mécanisme n'est pas proposé"),
    "This message cannot be read now, try again later": _both(
        "Diese Nachricht kann jetzt nicht gelesen werden, bitte später wieder versuchen",
        "Ce message ne peut pas être lu maintenant, réessayez plus tard",
    ),
    "This message is damaged; the administrator has to be told": _both(
        "Diese Nachricht ist beschädigt; bitte dem Administrator melden",
        "Ce message est endommagé; prévenez l'administrateur",
    ),
    "This message is marked as deleted": _both(
        "Diese Nachricht ist als gelöscht markiert", "Ce message est marqué comme supprimé"
    ),
    "Too many connections, try again later": _both(
        "Zu viele Verbindungen, bitte später wieder versuchen", "Trop de connexions, réessayez plus tard"
    ),
    "Too many errors": _both("Zu viele Fehler", "Trop d'erreurs"),
    "Unknown command": _both("Unbekannter Befehl", "Commande inconnue"),
    "USER comes first": _both("Zuerst kommt USER", "USER d'abord"),
    "USER needs a mailbox address": _both("USER braucht eine Postfachadresse", "USER demande une adresse"),
    "UTF-8 it is": _both("UTF-8 ist eingeschaltet", "UTF-8 est activé"),
}
