// The backend, an MCP server by the official SDK, and where asked for, the authorization server that stands for
// the tenant. Both serve until the test answers.

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import {
  localhostHostValidation,
  localhostOriginValidation,
  NodeStreamableHTTPServerTransport,
  toNodeHandler,
  toWebRequest,
} from '@modelcontextprotocol/node';
import { createMcpHandler, isLegacyRequest } from '@modelcontextprotocol/server';
import { exportJWK, generateKeyPair } from 'jose';
import Provider, { errors } from 'oidc-provider';
import { ask, done, input } from './harness.mjs';
import { makeServer } from './mcp_tools.mjs';

// Where the test has reserved the port.
const listen = (server, url) => new Promise(resolve => server.listen(new URL(url).port, '127.0.0.1', resolve));

// Streams that a client takes up again.
function eventStore() {
  const events = [];
  return {
    async storeEvent(stream, message) {
      events.push({ stream, message });
      return `${events.length - 1}`;
    },
    async replayEventsAfter(last, { send }) {
      const { stream } = events[last];
      for (const [id, event] of events.entries()) {
        const isMessage = Object.keys(event.message).length > 0;
        if (id > Number(last) && event.stream === stream && isMessage) await send(`${id}`, event.message);
      }
      return stream;
    },
  };
}

const sessions = new Map();

async function inSession(request, response, body, options) {
  const id = request.headers['mcp-session-id'];
  let transport = sessions.get(id);
  if (!transport && (id || body?.method !== 'initialize')) {
    response.writeHead(id ? 404 : 400, { 'content-type': 'application/json' });
    const error = { code: -32001, message: 'Session not found' };
    response.end(JSON.stringify({ jsonrpc: '2.0', id: null, error }));
    return;
  }
  if (!transport) {
    transport = new NodeStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: eventStore(),
      retryInterval: 500,
      onsessioninitialized: id => sessions.set(id, transport),
      onsessionclosed: id => sessions.delete(id),
    });
    await makeServer(undefined, options).connect(transport);
  }
  await transport.handleRequest(request, response, body);
}

const withoutSession = createMcpHandler(() => makeServer(changed), { legacy: 'reject' });
const { notify } = withoutSession;
const changed = { tools: () => notify.toolsChanged(), prompts: () => notify.promptsChanged() };
const modern = toNodeHandler(withoutSession);

const hostIsLocal = localhostHostValidation();
const originIsLocal = localhostOriginValidation();

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return chunks.length > 0 ? JSON.parse(Buffer.concat(chunks)) : undefined;
}

async function serve(request, response) {
  if (!hostIsLocal(request, response) || !originIsLocal(request, response)) return;
  const body = await read(request);
  const legacy = await isLegacyRequest(await toWebRequest(request, body), body);
  const older = request.url.endsWith('/older') ? { supportedProtocolVersions: ['2025-06-18'] } : {};
  await (legacy ? inSession(request, response, body, older) : modern(request, response, body));
}

async function authorizationServer({ issuer, certificate, key, resource, scopes, client }) {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const jwk = { ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: 'one' };
  const provider = new Provider(issuer, {
    jwks: { keys: [jwk] },
    clients: [{ ...client, client_id: 'registered-before' }],
    // Its own dispatcher goes nowhere on loopback.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    cookies: { keys: [randomUUID()] },
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    features: {
      devInteractions: { enabled: false },
      registration: { enabled: true },
      clientIdMetadataDocument: { enabled: true, ack: 'draft-02' },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(_, asked) {
          if (asked !== resource) throw new errors.InvalidTarget();
          const jwt = { sign: { alg: 'RS256' } };
          return { audience: asked, scope: scopes.join(' '), accessTokenFormat: 'jwt', jwt };
        },
      },
    },
  });
  const anyRequest = provider.callback();

  // Everybody is alice, who agrees to everything.
  async function interact(request, response) {
    const { prompt, params, grantId } = await provider.interactionDetails(request, response);
    if (prompt.name === 'login') {
      await provider.interactionFinished(request, response, { login: { accountId: 'alice' } });
      return;
    }
    const grant = grantId
      ? await provider.Grant.find(grantId)
      : new provider.Grant({ accountId: 'alice', clientId: params.client_id });
    const { missingOIDCScope = [], missingResourceScopes = {} } = prompt.details;
    grant.addOIDCScope(missingOIDCScope.join(' '));
    for (const [indicator, scopes] of Object.entries(missingResourceScopes)) {
      grant.addResourceScope(indicator, scopes.join(' '));
    }
    const result = { consent: { grantId: await grant.save() } };
    await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
  }

  const tls = { cert: readFileSync(certificate), key: readFileSync(key) };
  const server = createSecureServer(tls, async (request, response) => {
    if (request.url.startsWith('/interaction/')) return interact(request, response);
    if (request.url === '/client.json') {
      // What a client says of itself, at the URL that is its id.
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify({ ...client, client_id: new URL('/client.json', issuer).href }));
    }
    if (request.url === '/reg') {
      // The clients register with the scopes that they need at first. Bound to these, they would get no others.
      const { scope, ...registration } = await read(request);
      request.body = registration;
    }
    return anyRequest(request, response);
  });
  await listen(server, issuer);
  return server;
}

const servers = [];
if (input.authorization) servers.push(await authorizationServer(input.authorization));
const backend = createServer(serve);
await listen(backend, input.backend);
servers.push(backend);
await ask('how long?');
for (const server of servers) {
  server.close();
  server.closeAllConnections();
}
done();
process.exit();
