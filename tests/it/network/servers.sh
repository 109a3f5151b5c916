#!/bin/sh
# Starts the servers of the network tests in the directory $1, all on addresses of the loopback of a
# network namespace of its own: 10.9.0.1 has the bridge behind nginx, 10.9.0.2 the proxies. Each proxy
# goes out from an address of its own, so nginx's log says by which way a request came. They end with
# the PID namespace. Called by scripts/network-tests.sh alone.
set -eu

dir=$1 bridge=$2 here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
! ip -o link show up | grep -v ': lo:' >&2 ||
    { echo "servers.sh: this is no network namespace of its own" >&2; exit 1; }
cd "$dir"
ip link set lo up
for last in 1 2 12 13 14 15 20; do ip addr add "10.9.0.$last/32" dev lo; done
cat >hosts <<END
127.0.0.1 localhost
::1 localhost
10.9.0.1 bridge.corp other.corp
10.9.0.2 proxy.corp
END
mount -t tmpfs shm /dev/shm
echo "nameserver 10.9.0.20" >resolv.conf
mount --bind hosts /etc/hosts
mount --bind resolv.conf "$(readlink -f /etc/resolv.conf)"

# Certificates: an authority, and what it signed; one that signed itself; one that is too old.
mkdir -p ca certs nginx squid
: >ca/index.txt
cat >ca.cnf <<END
[ca]
default_ca = it
[it]
database = ca/index.txt
new_certs_dir = ca
rand_serial = yes
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
END
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj "/CN=Corp CA" -days 30 2>openssl.log
signed() { # name, host, end
    openssl req -newkey rsa:2048 -nodes -keyout "certs/$1.key" -out "certs/$1.csr" -subj "/CN=$2" \
        -addext "subjectAltName=DNS:$2" 2>>openssl.log
    openssl ca -batch -notext -config ca.cnf -in "certs/$1.csr" -out "certs/$1.pem" -startdate 20240101000000Z \
        -enddate "$3" 2>>openssl.log
}
signed bridge bridge.corp 20990101000000Z
signed proxy proxy.corp 20990101000000Z
signed old bridge.corp 20240201000000Z
signed other other.example 20990101000000Z
signed machine machine 20990101000000Z
openssl req -x509 -newkey rsa:2048 -nodes -keyout certs/self.key -out certs/self.pem -subj /CN=bridge.corp \
    -addext "subjectAltName=DNS:bridge.corp" -days 30 2>>openssl.log
openssl rsa -traditional -in certs/machine.key -out certs/machine-pkcs1.key 2>>openssl.log

"$bridge" serve --data "$dir/bridge" --listen 127.0.0.1:4780 --behind-proxy --host bridge.corp \
    --max-connections 200 >serve.log 2>&1 &

cat >nginx.conf <<END
daemon off; user root; pid nginx.pid; error_log nginx.log;
events { worker_connections 500; }
http {
    log_format it '\$remote_addr \$server_port \$request_method \$uri \$status';
    access_log access.log it;
    client_body_temp_path nginx; proxy_temp_path nginx; fastcgi_temp_path nginx; uwsgi_temp_path nginx; scgi_temp_path nginx;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host bridge.corp; proxy_buffering off;
    proxy_set_header X-Forwarded-For \$remote_addr; proxy_set_header X-Forwarded-Proto \$scheme;
    server { listen 10.9.0.1:80; location / { proxy_pass http://127.0.0.1:4780; } }
    server { listen 10.9.0.1:443 ssl; ssl_certificate certs/bridge.pem; ssl_certificate_key certs/bridge.key;
        location / { proxy_pass http://127.0.0.1:4780; }
        location /sub/ { proxy_pass http://127.0.0.1:4780/; } }
    server { listen 10.9.0.1:4432 ssl; ssl_protocols TLSv1.2; ssl_certificate certs/bridge.pem; ssl_certificate_key certs/bridge.key;
        location / { proxy_pass http://127.0.0.1:4780; } }
    server { listen 10.9.0.1:8443 ssl; ssl_certificate certs/bridge.pem; ssl_certificate_key certs/bridge.key;
        ssl_client_certificate ca.pem; ssl_verify_client on; location / { proxy_pass http://127.0.0.1:4780; } }
    server { listen 10.9.0.1:8444 ssl; ssl_certificate certs/self.pem; ssl_certificate_key certs/self.key;
        location / { proxy_pass http://127.0.0.1:4780; } }
    server { listen 10.9.0.1:8445 ssl; ssl_certificate certs/old.pem; ssl_certificate_key certs/old.key; }
    server { listen 10.9.0.1:8446 ssl; ssl_certificate certs/other.pem; ssl_certificate_key certs/other.key; }
    server { listen 10.9.0.1:8081; default_type text/html; location / { return 403 "<html>blocked by the filter</html>"; } }
    server { listen 10.9.0.1:8082; default_type text/plain; location / { return 401 "Session expired"; } }
    server { listen 10.9.0.1:8083; location / { return 302 "https://team.cloudflareaccess.com/cdn-cgi/access/login?token=hidden"; } }
    server { listen 10.9.0.1:8084; default_type text/html; location / { return 200 "<html>Welcome to the hotel</html>"; } }
    server { listen 10.9.0.1:8085; location / { return 302 "http://portal.example/login"; } }
    server { listen 10.9.0.1:8086; default_type text/html; location / {
        if (\$http_cf_access_client_id != "the-id") { return 403 "<title>Cloudflare Access</title>"; }
        if (\$http_cf_access_client_secret != "the-secret") { return 403 "<title>Cloudflare Access</title>"; }
        proxy_pass http://127.0.0.1:4780; } }
    server { listen 10.9.0.1:8087; default_type text/html; location / {
        if (-f $dir/filter) { return 403 "<html>blocked by the filter</html>"; }
        proxy_pass http://127.0.0.1:4780; } }
}
END
nginx -p "$dir" -c nginx.conf >nginx.out 2>&1 &

htpasswd -bc squid/users ann 'p@ss:w/o#%' 2>/dev/null
cat >squid.conf <<END
http_port 10.9.0.2:3128 name=open
http_port 10.9.0.2:3129 name=closed
auth_param basic program /usr/lib/squid/basic_ncsa_auth $dir/squid/users
acl closed myportname closed
acl known proxy_auth REQUIRED
acl SSL_ports port 443
acl CONNECT method CONNECT
http_access deny CONNECT !SSL_ports
http_access deny closed !known
http_access allow all
tcp_outgoing_address 10.9.0.12
hosts_file /etc/hosts
cache deny all
cache_log $dir/squid/cache.log
access_log none
pid_filename $dir/squid/pid
coredump_dir $dir/squid
shutdown_lifetime 0 seconds
visible_hostname proxy.corp
pinger_enable off
END
chown -R proxy squid
squid -N -f squid.conf >squid.log 2>&1 &

cat >tinyproxy.conf <<END
Port 8888
Listen 10.9.0.2
Bind 10.9.0.13
Timeout 600
BasicAuth ann secret
ConnectPort 443
LogFile "$dir/tinyproxy.log"
END
tinyproxy -d -c tinyproxy.conf >tinyproxy.out 2>&1 &

cat >stunnel.conf <<END
foreground = yes
pid =
[proxy]
accept = 10.9.0.2:3130
connect = 10.9.0.2:3128
cert = $dir/certs/proxy.pem
key = $dir/certs/proxy.key
END
stunnel4 stunnel.conf >stunnel.log 2>&1 &
microsocks -i 10.9.0.2 -p 1080 -b 10.9.0.14 >socks.log 2>&1 &
microsocks -i 10.9.0.2 -p 1081 -u ann -P secret -b 10.9.0.15 >socks-auth.log 2>&1 &
python3 -I "$here/servers.py" >servers.out 2>&1 &

# Whether something listens, by what the kernel says.
listens() { ss -Hltn "src $1" | grep -q . ; }
for address in 127.0.0.1:4780 10.9.0.1:80 10.9.0.2:3128 10.9.0.2:8888 10.9.0.2:3130 10.9.0.2:1080 10.9.0.2:1081 10.9.0.2:3132; do
    tries=0
    until listens "$address"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || { echo "nothing listens at $address" >&2; tail -n 5 ./*.log ./*.out >&2; exit 1; }
        sleep 0.1
    done
done
