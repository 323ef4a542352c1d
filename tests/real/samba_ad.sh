#!/usr/bin/env bash
# A real Active Directory domain controller (Samba) for the tests: one command brings it up, one takes it down.
#
#   samba_ad.sh up      make the domain (once) and start it; returns when LDAP, Kerberos and winbind answer
#   samba_ad.sh down    stop it and take its network away; the domain stays
#   samba_ad.sh wipe    stop it and delete the domain
#   samba_ad.sh env     say where it is, as VARIABLE=value lines
#   samba_ad.sh tool …  run samba-tool on this domain
#   samba_ad.sh exec …  run a program inside its network, with its winbind and its krb5.conf
#
# Needs root (network namespaces) and, on Debian: samba samba-ad-dc samba-ad-provision samba-dsdb-modules
# samba-vfs-modules winbind krb5-user ldap-utils openssl iproute2.
# The ports of LDAP and Kerberos cannot be changed, so the server lives in a network namespace of its own, which one
# pair of virtual interfaces joins to the host. Environment: WINPOP_AD_DIR (state), WINPOP_AD_NS (namespace),
# WINPOP_AD_VETH (at most 12 characters), WINPOP_AD_HOST_IP and WINPOP_AD_IP (in one /30), WINPOP_AD_REALM,
# WINPOP_AD_DOMAIN, WINPOP_AD_HOST, WINPOP_AD_ADMINPW.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dir=${WINPOP_AD_DIR:-${TMPDIR:-/tmp}/winpop-ad-tests}
namespace=${WINPOP_AD_NS:-winpopadtests}
veth=${WINPOP_AD_VETH:-wpadt}
host_ip=${WINPOP_AD_HOST_IP:-198.18.53.5}
ip=${WINPOP_AD_IP:-198.18.53.6}
realm=${WINPOP_AD_REALM:-AD.WINPOP.TEST}
domain=${WINPOP_AD_DOMAIN:-WINPOP}
host=${WINPOP_AD_HOST:-dc1}
adminpw=${WINPOP_AD_ADMINPW:-Adm1n-Passw0rd}
dns=${realm,,}
conf=$dir/etc/smb.conf
pidfile=$dir/samba.pid

network_up() {
  ip netns list | grep -qw "$namespace" || ip netns add "$namespace"
  ip -n "$namespace" link set lo up
  if ! ip link show "${veth}0" >/dev/null 2>&1; then
    ip link add "${veth}0" type veth peer name "${veth}1"
    ip link set "${veth}1" netns "$namespace"
    ip addr add "$host_ip/30" dev "${veth}0"
    ip link set "${veth}0" up
    ip -n "$namespace" addr add "$ip/30" dev "${veth}1"
    ip -n "$namespace" link set "${veth}1" up
  fi
  mkdir -p "/etc/netns/$namespace" # `ip netns exec` shows these instead of those in /etc
  printf 'search %s\nnameserver %s\noptions timeout:2 attempts:2\n' "$dns" "$ip" >"/etc/netns/$namespace/resolv.conf"
  printf '127.0.0.1 localhost\n%s %s.%s %s\n' "$ip" "$host" "$dns" "$host" >"/etc/netns/$namespace/hosts"
}

network_down() {
  ip link del "${veth}0" 2>/dev/null || true
  ip netns del "$namespace" 2>/dev/null || true
  rm -rf "/etc/netns/$namespace"
}

write_krb5_conf() {
  cat >"$dir/krb5.conf" <<END
[libdefaults]
  default_realm = $realm
  dns_lookup_realm = false
  dns_lookup_kdc = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 0
[realms]
  $realm = {
    kdc = $ip
    admin_server = $ip
    kpasswd_server = $ip
  }
[domain_realm]
  .$dns = $realm
  $dns = $realm
END
}

# Samba's own certificate has no subjectAltName. 127.0.0.1 is in it for tests that stand between client and server.
make_certificates() {
  mkdir -p "$dir/tls"
  (
    cd "$dir/tls"
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout ca.key -out ca.crt -subj '/CN=winpop test CA' \
      -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -keyout dc.key -out dc.csr -subj "/CN=$host.$dns" 2>/dev/null
    printf 'subjectAltName=DNS:%s.%s,DNS:%s,IP:%s,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' \
      "$host" "$dns" "$dns" "$ip" >extensions
    openssl x509 -req -in dc.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions \
      -out dc.crt 2>/dev/null
    chmod 600 dc.key ca.key
  )
}

provision() {
  : >"$dir/empty.conf" # or the machine's own smb.conf would be read
  ip netns exec "$namespace" samba-tool domain provision \
    --targetdir="$dir" -s "$dir/empty.conf" \
    --realm="$realm" --domain="$domain" --host-name="$host" --host-ip="$ip" --adminpass="$adminpw" \
    --server-role=dc --dns-backend=SAMBA_INTERNAL --use-rfc2307 --function-level=2008_R2 \
    --option="interfaces=lo ${veth}1" --option='bind interfaces only=yes' >"$dir/provision.log" 2>&1
  make_certificates
  # The sections that provisioning wrote stay; of its [global] part, what we say otherwise goes. The private
  # directories for pipes and pids keep two domains apart.
  awk -v dir="$dir" '
    /^\[/ && global { settings(); global = 0 }
    /^\[global\]/ { print; global = 1; next }
    global && /^[ \t]*(dns forwarder|server services|winbindd socket directory|ncalrpc dir)[ \t]*=/ { next }
    { print }
    function settings() {
      print "\ttls enabled = yes\n\ttls keyfile = " dir "/tls/dc.key\n\ttls certfile = " dir "/tls/dc.crt"
      print "\ttls cafile = " dir "/tls/ca.crt\n\tldap server require strong auth = allow_sasl_over_tls"
      print "\tntlm auth = ntlmv2-only\n\tdisable spoolss = yes\n\tload printers = no"
      print "\tserver services = s3fs, rpc, nbt, wrepl, ldap, cldap, kdc, drepl, winbindd, ntp_signd, kcc, dnsupdate, dns"
      print "\tlog level = 1\n\tlog file = " dir "/log.%m\n\tmax log size = 5000"
      print "\tncalrpc dir = " dir "/ncalrpc\n\twinbindd socket directory = " dir "/winbindd\n\tpid directory = " dir "/run\n"
    }' "$conf" >"$conf.new"
  mv "$conf.new" "$conf"
}

remove() { # nothing but what this script has made
  [ ! -e "$dir" ] || [ -z "$(ls -A "$dir")" ] || [ -e "$dir/.winpop-test-domain" ] ||
    { echo "$dir is not a domain of these tests" >&2; exit 1; }
  rm -rf "$dir"
}

# After a restart of the computer the number in the file may be another program's.
is_alive() { [ -s "$pidfile" ] && grep -qs '^samba' "/proc/$(cat "$pidfile")/comm"; }

answers() {
  LDAPTLS_CACERT="$dir/tls/ca.crt" ldapsearch -x -LLL -o nettimeout=2 -H "ldaps://$ip" -s base -b '' \
    defaultNamingContext >/dev/null 2>&1 &&
    echo "$adminpw" | KRB5_CONFIG="$dir/krb5.conf" KRB5CCNAME="FILE:$dir/cc.admin" kinit "Administrator@$realm" \
      >/dev/null 2>&1 &&
    [ -S "$dir/winbindd/pipe" ]
}

wait_until_it_answers() {
  for _ in $(seq 1 240); do
    answers && return 0
    is_alive || { echo "samba ended early; see $dir/samba.out" >&2; return 1; }
    sleep 0.25
  done
  echo "samba does not answer; see $dir/samba.out" >&2
  return 1
}

command=${1:-}
shift || true
case $command in
  up)
    is_alive && { wait_until_it_answers; exit; }
    # What is in a domain depends on these files, and passwords in it grow old.
    version=$(cat "$here/samba_ad.sh" "$here/samba_seed.py" | sha256sum)
    if [ "$(cat "$dir/.seeded" 2>/dev/null)" != "$version" ] || [ -n "$(find "$dir/.seeded" -mtime +7)" ]; then
      remove
    fi
    mkdir -p "$dir"
    touch "$dir/.winpop-test-domain"
    network_up
    write_krb5_conf
    [ -f "$dir/.seeded" ] || provision
    mkdir -p "$dir/run"
    setsid ip netns exec "$namespace" env KRB5_CONFIG="$dir/krb5.conf" \
      samba -F --no-process-group -s "$conf" -M prefork --option='prefork children=1' \
      </dev/null >"$dir/samba.out" 2>&1 &
    echo $! >"$pidfile"
    wait_until_it_answers
    if [ ! -f "$dir/.seeded" ]; then
      # Debian's own Python: its package python3-samba is not on PyPI.
      ip netns exec "$namespace" /usr/bin/python3 "$here/samba_seed.py" "$conf" >"$dir/seed.log" 2>&1 ||
        { cat "$dir/seed.log" >&2; exit 1; }
      printf '%s\n' "$version" >"$dir/.seeded"
    fi
    ;;
  down)
    if is_alive; then
      pid=$(cat "$pidfile")
      kill -TERM "$pid" 2>/dev/null || true
      for _ in $(seq 1 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    fi
    # Only this domain's processes are in its namespace.
    for pid in $(ip netns pids "$namespace" 2>/dev/null || true); do kill -KILL "$pid" 2>/dev/null || true; done
    rm -f "$pidfile"
    network_down
    ;;
  wipe)
    "$0" down
    remove
    ;;
  env)
    cat <<END
WINPOP_AD_DIR=$dir
WINPOP_AD_NS=$namespace
WINPOP_AD_IP=$ip
WINPOP_AD_HOSTNAME=$host.$dns
WINPOP_AD_REALM=$realm
WINPOP_AD_DOMAIN=$domain
WINPOP_AD_BASE=DC=${dns//./,DC=}
WINPOP_AD_CA=$dir/tls/ca.crt
WINPOP_AD_CAKEY=$dir/tls/ca.key
WINPOP_AD_CONF=$conf
WINPOP_AD_ADMIN=Administrator
WINPOP_AD_ADMINPW=$adminpw
KRB5_CONFIG=$dir/krb5.conf
END
    ;;
  tool) ip netns exec "$namespace" samba-tool "$@" -s "$conf" ;;
  exec)
    # libwbclient has the place of winbind's pipe compiled in. The mount is seen in this namespace only.
    mkdir -p /run/samba/winbindd
    exec ip netns exec "$namespace" env KRB5_CONFIG="$dir/krb5.conf" \
      sh -c 'mount --bind "$0" /run/samba/winbindd && exec "$@"' "$dir/winbindd" "$@"
    ;;
  *)
    sed -n '2,18p' "$0"
    exit 2
    ;;
esac
