// The official clients under rules for each tool, with lists of their own and sessions of their own.

import assert from 'node:assert/strict';
import * as two from '@modelcontextprotocol/client';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ask, check, done, input } from './harness.mjs';

const url = new URL(input.url);
const about = { name: 'tests', version: '1.0.0' };

const one = {
  make: () => new Client(about),
  transport: token =>
    new StreamableHTTPClientTransport(url, { requestInit: { headers: { authorization: `Bearer ${token}` } } }),
};

const next = {
  make(revision) {
    const mode = revision === '2026-07-28' ? { pin: revision } : 'legacy';
    return new two.Client(about, { versionNegotiation: { mode } });
  },
  transport: token => new two.StreamableHTTPClientTransport(url, { authProvider: { token: async () => token } }),
};

async function connect(sdk, revision, token) {
  const client = sdk.make(revision);
  const transport = sdk.transport(token);
  await client.connect(transport);
  return { client, transport };
}

const call = (client, name) => client.callTool({ name, arguments: {} });

// A request in a session, by hand: no client would use another's.
async function inSession(id, token) {
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      accept: 'application/json, text/event-stream',
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      'mcp-protocol-version': '2025-11-25',
      'mcp-session-id': id,
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 7, method: 'ping' }),
  });
  return { status: response.status, text: await response.text() };
}

const narrow = await ask({ sub: 'auth0|alice', scope: 'tools:call' });
const wide = await ask({ sub: 'auth0|bob', scope: 'tools:call tools:test' });

for (const [name, sdk, revision] of [
  ['client 2', next, '2026-07-28'],
  ['client 2', next, '2025-11-25'],
  ['sdk 1', one, '2025-11-25'],
]) {
  const alice = await connect(sdk, revision, narrow);
  const bob = await connect(sdk, revision, wide);

  await check(`${name}, ${revision}: each sees the tools that it may call`, async () => {
    const [hers, his] = await Promise.all(
      [alice, bob].map(async ({ client }) => (await client.listTools()).tools.map(({ name }) => name)),
    );
    assert(hers.includes('whoami') && his.includes('whoami'));
    assert(his.includes('test_simple_text'));
    assert.deepEqual(hers, his.filter(tool => !tool.startsWith('test_')));
  });

  await check(`${name}, ${revision}: it calls what it may, and nothing else`, async () => {
    assert.match((await call(alice.client, 'whoami')).content[0].text, /auth0\|alice/);
    assert.match((await call(bob.client, 'test_simple_text')).content[0].text, /simple text/);
    await assert.rejects(call(alice.client, 'test_simple_text'), error => {
      // Whatever else a client makes of the 403, it is the end of the call.
      assert(error instanceof Error, `${error}`);
      return true;
    });
    assert.match((await call(alice.client, 'whoami')).content[0].text, /auth0\|alice/);
  });

  await check(`${name}, ${revision}: a session is its owner's`, async () => {
    const id = alice.transport.sessionId;
    if (revision === '2026-07-28') {
      assert.equal(id, undefined);
      return;
    }
    assert.equal((await inSession(id, narrow)).status, 200);
    const stolen = await inSession(id, wide);
    assert.equal(stolen.status, 404);
    assert.match(stolen.text, /mcp_session_unknown/);
    const bare = await inSession(id.slice(0, id.lastIndexOf('.')), narrow);
    assert.equal(bare.status, 404);
  });

  await alice.client.close();
  await bob.client.close();
}

done();
