//! What `--help` says beyond the flags: the program has no other manual where it runs.

/// Before the flags.
pub(crate) const ABOUT: &str = "\
Authenticating reverse proxy: lets a request through to an AI-agent backend only with a valid Auth0 access \
token that satisfies the configured rules, and tells the backend in x-forwarded-user who is asking.

Two settings are enough: AUTH0_DOMAIN and AUTH0_AUDIENCE. Without further ones it listens on port 8080, \
forwards to http://127.0.0.1:4111, and asks every request for a token.";

/// After the flags.
pub(crate) const AFTER: &str = "\
Settings:
  A flag wins over the environment, the environment over the file, the file over the default. The file is \
TOML and holds the rules too; none is looked for unless one is named. `authgate schema` describes it.

Environment:
  AUTH0_DOMAIN                 The tenant's domain, or several with commas between them
  AUTH0_AUDIENCE               The API identifier, or several with commas between them
  AUTHGATE_CONFIG, AUTHGATE_LISTEN, AUTHGATE_UPSTREAM, AUTHGATE_ADMIN, AUTHGATE_WORKERS, AUTHGATE_LOG, \
AUTHGATE_LOG_FORMAT
                               As the flags; AUTHGATE_CONFIG must not be empty
  AUTHGATE_MCP_SESSION_KEY     Keys of MCP sessions, of 32 characters or more each, the current one first
  SSL_CERT_FILE, SSL_CERT_DIR  Trusted roots in place of the system's
  HTTPS_PROXY, NO_PROXY        For fetching keys; requests to the backend never go through a proxy

Signals:
  SIGTERM  Not ready at once; accepts for timeouts.linger; finishes what runs within timeouts.drain
  SIGINT   The same without lingering
  A second one ends the process at once

Exit codes:
   0  A signal was obeyed; check: no error; healthcheck: ready; drain: the process drains
   1  healthcheck: not ready, or no answer
  64  The command line is wrong
  69  check --online: keys or upstream are out of reach; drain: no answer
  70  It cannot run, or a part of it has died
  78  The configuration is wrong, or a file that it names; healthcheck, drain: admin is off

Examples:
  AUTH0_DOMAIN=your-tenant.us.auth0.com AUTH0_AUDIENCE=https://your-api.com authgate
  authgate check --online --config authgate.toml
  authgate schema > authgate.schema.json
  authgate completions bash > /etc/bash_completion.d/authgate";
