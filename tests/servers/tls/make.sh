#!/bin/sh
# Makes the certificates of the hostile origin: `sh make.sh` in this folder. They guard nothing, and last a century.
# ca.pem is the authority that the tests trust; every other file holds a key, its certificate, and what leads to an authority.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
here=$PWD
cd "$work"
mkdir new && : > index.txt && echo 01 > serial
cat > ca.cnf <<'EOF'
[req]
distinguished_name = dn
[dn]
[ca]
default_ca = own
[own]
dir = .
new_certs_dir = new
database = index.txt
serial = serial
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[v3_ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:false
subjectAltName = IP:127.0.0.1
authorityKeyIdentifier = keyid, issuer
[elsewhere]
basicConstraints = CA:false
subjectAltName = DNS:elsewhere.invalid, DNS:*.0.0.1
[nameless]
basicConstraints = CA:false
[client]
basicConstraints = CA:false
subjectAltName = IP:127.0.0.1
extendedKeyUsage = clientAuth
EOF
ec() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
sign() { # name extensions start end, and how: -selfsign, or -cert and -md
    [ -e "$1.key" ] || ec "$1"
    name=$1 extensions=$2 start=$3 end=$4
    shift 4
    openssl req -new -key "$name.key" -subj "/CN=${CN:-$name}" -out "$name.csr" -config ca.cnf
    openssl ca -batch -notext -config ca.cnf -extensions "$extensions" -startdate "$start" -enddate "$end" \
        -in "$name.csr" -out "$name.crt" "$@" 2> /dev/null
    cat "$name.key" "$name.crt" > "$here/$name.pem"
}
by() { # authority name extensions start end [digest]
    sign "$2" "$3" "$4" "$5" -cert "$1.crt" -keyfile "$1.key" -md "${6:-sha256}"
}
itself() { # name extensions
    ec "$1"
    sign "$1" "$2" $now $century -selfsign -keyfile "$1.key"
}
then=20200101000000Z now=20250101000000Z century=21250101000000Z
itself ca v3_ca
itself stranger v3_ca
rm "$here/stranger.pem"
cp ca.crt "$here/ca.pem"
by ca right server $now $century
by stranger stranger_signed server $now $century
by ca elsewhere elsewhere $now $century
CN=127.0.0.1 by ca nameless nameless $now $century
by ca client_only client $now $century
by ca expired server $then $now
by ca not_yet server 21240101000000Z $century
openssl genrsa -out weak.key 1024 2> /dev/null
by ca weak server $now $century
by ca old_digest server $now $century sha1
by right by_a_leaf server $now $century # `right` is no authority, and signs all the same
cat right.crt >> "$here/by_a_leaf.pem"
itself self_signed server
