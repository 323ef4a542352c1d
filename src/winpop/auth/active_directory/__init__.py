"""Active Directory integrated, method 2: `ActiveDirectory` for the service, `DirectoryAccounts` for the tool.

The LDAP client is our own, for two reasons. A domain controller that hangs must not stop an event loop, and libldap as
bonsai 1.5.5 binds it holds the interpreter while it shakes hands; and what we need of LDAP is small: six operations,
which need no compiler and no extra package. `ber` and `messages` are pure; `connection` has the socket.
"""

from winpop.auth.active_directory.accounts import Description, DirectoryAccounts
from winpop.auth.active_directory.service import ActiveDirectory

__all__ = ["ActiveDirectory", "Description", "DirectoryAccounts"]
