// The official MCP clients, which are given a URL and a browser, and nothing else.

import assert from 'node:assert/strict';
import * as two from '@modelcontextprotocol/client';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ToolListChangedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { decodeJwt, decodeProtectedHeader } from 'jose';
import { check, done, input } from './harness.mjs';

const { issuer, resource, client: metadata } = input;
const [redirect] = metadata.redirect_uris;

// A browser whose user agrees to everything, as far as the page that belongs to the client.
async function browse(url) {
  const cookies = new Map();
  for (let next = url; ; ) {
    if (next.href.startsWith(redirect)) return next.searchParams;
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(next, { redirect: 'manual', headers: { cookie } });
    const text = await response.text();
    assert([302, 303].includes(response.status), `${response.status} ${text}`);
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (value === '') cookies.delete(name);
      else cookies.set(name, value);
    }
    next = new URL(response.headers.get('location'), next);
  }
}

// What a client keeps, in memory.
class Keeper {
  authorizations = [];
  redirectUrl = redirect;
  clientMetadata = metadata;

  constructor(registration) {
    if (registration === 'in advance') this.information = { client_id: 'registered-before' };
    if (registration === 'by its URL') this.clientMetadataUrl = new URL('/client.json', issuer).href;
  }
  clientInformation() {
    return this.information;
  }
  saveClientInformation(information) {
    this.information = information;
  }
  tokens() {
    return this.kept;
  }
  saveTokens(tokens) {
    this.kept = tokens;
  }
  codeVerifier() {
    return this.verifier;
  }
  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }
  discoveryState() {
    return this.discovered;
  }
  saveDiscoveryState(state) {
    this.discovered = state;
  }
  async redirectToAuthorization(url) {
    this.authorizations.push(url);
    this.answer = await browse(url);
  }
}

const about = { name: 'tests', version: '1.0.0' };

const one = {
  Unauthorized: UnauthorizedError,
  make(_, onListChanged) {
    const client = new Client(about);
    client.setNotificationHandler(ToolListChangedNotificationSchema, onListChanged);
    return client;
  },
  transport: (url, authProvider) => new StreamableHTTPClientTransport(url, { authProvider }),
  finish: (transport, answer) => transport.finishAuth(answer.get('code')),
  version: (_, transport) => transport.protocolVersion,
};

const next = {
  Unauthorized: two.UnauthorizedError,
  make(revision, onChanged) {
    const mode = revision === '2026-07-28' ? { pin: revision } : 'legacy';
    const listChanged = { tools: { autoRefresh: false, debounceMs: 0, onChanged } };
    return new two.Client(about, { versionNegotiation: { mode }, listChanged });
  },
  transport: (url, authProvider) => new two.StreamableHTTPClientTransport(url, { authProvider }),
  finish: (transport, answer) => transport.finishAuth(answer),
  version: client => client.getNegotiatedProtocolVersion(),
};

async function connect(sdk, url, keeper, revision, onListChanged = () => {}) {
  for (let authorized = false; ; authorized = true) {
    const transport = sdk.transport(new URL(url), keeper);
    const client = sdk.make(revision, onListChanged);
    try {
      await client.connect(transport);
      return { client, transport };
    } catch (error) {
      if (authorized || !(error instanceof sdk.Unauthorized)) throw error;
      await sdk.finish(transport, keeper.answer);
    }
  }
}

const text = async (client, name, options) => {
  const call = { name, arguments: {} };
  const rest = options ? [...(client instanceof Client ? [undefined] : []), options] : [];
  const { content } = await client.callTool(call, ...rest);
  return content[0].text;
};

function authorized(keeper, scopes) {
  const asked = keeper.authorizations.at(-1).searchParams;
  assert.equal(asked.get('code_challenge_method'), 'S256');
  assert.equal(asked.get('resource'), resource);
  assert.deepEqual(asked.get('scope').split(' ').sort(), scopes);
  const token = keeper.kept.access_token;
  const { iss, aud, scope } = decodeJwt(token);
  assert.deepEqual({ iss, aud, scope: scope.split(' ').sort() }, { iss: issuer, aud: resource, scope: scopes });
  assert.equal(decodeProtectedHeader(token).alg, 'RS256');
}

for (const [name, sdk, path, revision, registration] of [
  ['client 2', next, '', '2026-07-28', 'by its URL'],
  ['client 2', next, '', '2025-11-25', 'by itself'],
  ['sdk 1', one, '', '2025-11-25', 'in advance'],
  ['sdk 1', one, '/older', '2025-06-18', 'by itself'],
]) {
  const keeper = new Keeper(registration);
  let changed;
  const hasChanged = new Promise(resolve => (changed = resolve));
  let connection;

  await check(`${name}, ${revision}: it finds the issuer, and gets in`, async () => {
    connection = await connect(sdk, resource + path, keeper, revision, changed);
    assert.equal(sdk.version(connection.client, connection.transport), revision);
    assert.equal(keeper.discovered.authorizationServerUrl, issuer);
    assert.equal(keeper.discovered.resourceMetadata.resource, resource);
    assert.equal(keeper.authorizations.length, 1);
    authorized(keeper, ['use:tools']);
  });
  const { client } = connection;

  await check(`${name}, ${revision}: it lists and calls tools`, async () => {
    const { tools } = await client.listTools();
    assert(tools.some(({ name }) => name === 'whoami'));
    assert.deepEqual(JSON.parse(await text(client, 'whoami')), { user: 'alice', token: false });
  });

  await check(`${name}, ${revision}: notifications come before the end of the call`, async () => {
    const steps = [];
    let released;
    const onprogress = ({ progress }) => {
      steps.push(progress);
      // The call ends by this one, which is made when its first notification is here.
      if (progress === 1) released = text(client, 'release');
    };
    assert.equal(await text(client, 'hold', { onprogress }), 'released');
    assert.equal(await released, 'done');
    assert.deepEqual(steps, [1, 2]);
  });

  await check(`${name}, ${revision}: notifications come without a call`, async () => {
    await text(client, 'test_trigger_tool_change');
    await hasChanged;
  });

  await check(`${name}, ${revision}: it asks for a further scope, and gets further`, async () => {
    const { client } = await connect(sdk, `${resource}${path}/admin${path}`, keeper, revision);
    assert.equal(keeper.authorizations.length, 2);
    authorized(keeper, ['manage:tools', 'use:tools']);
    assert.equal(await text(client, 'test_simple_text'), 'This is a simple text response for testing.');
    await client.close();
    // The wider token is good for what the narrower one was good for.
    assert.deepEqual(JSON.parse(await text(connection.client, 'whoami')), { user: 'alice', token: false });
    await connection.client.close();
  });
}

done();
