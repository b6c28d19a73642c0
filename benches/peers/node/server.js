// the JS equivalent: express + Auth0's own middleware (jose inside) + http-proxy
const http = require('http'), express = require('express'), httpProxy = require('http-proxy');
const { auth, claimIncludes } = require('express-oauth2-jwt-bearer');
const E = process.env;
const app = express();
app.disable('x-powered-by');
const proxy = httpProxy.createProxyServer({ target: `http://${E.UPSTREAM}`, agent: new http.Agent({ keepAlive: true, maxSockets: 4096 }) });
proxy.on('error', (e, req, res) => { if (!res.headersSent) { res.writeHead(502); } res.end(); });
if (E.AUTH !== 'none') {
  app.use(auth({ issuer: E.ISS, audience: E.AUD, jwksUri: E.JWKS_URI, tokenSigningAlg: 'RS256' }));
  app.use(claimIncludes('permissions', E.PERM));
}
app.use((req, res) => { if (req.auth) req.headers['x-auth-sub'] = req.auth.payload.sub; proxy.web(req, res); });
app.use((err, req, res, next) => { res.status(err.status || 500).set(err.headers || {}).end(); });
app.listen(+E.PORT, '127.0.0.1');
