// The official conformance suite, which knows no tokens: straight to the server, and through authgate behind a
// shim that adds one.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ask, check, done, input } from './harness.mjs';

const SUITE = 'node_modules/@modelcontextprotocol/conformance/dist/index.js';

const token = await ask('token');
const { port } = new URL(input.proxy);
const shim = createServer((incoming, outgoing) => {
  const { method, url, rawHeaders } = incoming;
  const headers = [...rawHeaders, 'Authorization', `Bearer ${token}`];
  const forwarded = request({ host: '127.0.0.1', port, method, path: url, headers }, response => {
    outgoing.writeHead(response.statusCode, response.statusMessage, response.rawHeaders);
    outgoing.flushHeaders();
    response.pipe(outgoing);
    response.on('error', () => outgoing.destroy());
  });
  forwarded.on('error', () => outgoing.destroy());
  outgoing.on('close', () => forwarded.destroy());
  incoming.pipe(forwarded);
});
await new Promise(resolve => shim.listen(0, '127.0.0.1', resolve));

// The checks by scenario.
async function run(revision, url) {
  const folder = await mkdtemp(join(tmpdir(), 'conformance-'));
  try {
    const parameters = ['--import', './node_22.mjs', SUITE, 'server', '--requirements', revision];
    const output = await new Promise(resolve => {
      // It fails where a check fails, which is for the caller to judge.
      execFile(process.execPath, [...parameters, '--url', url, '--output-dir', folder], (_, ...texts) =>
        resolve(texts.join('\n')),
      );
    });
    const results = {};
    for (const name of await readdir(folder)) {
      const scenario = name.replace(/^server-/, '').replace(/-\d{4}-\d\d-\d\dT.*$/, '');
      results[scenario] = JSON.parse(await readFile(join(folder, name, 'checks.json')));
    }
    assert(Object.keys(results).length > 0, output);
    return results;
  } finally {
    await rm(folder, { recursive: true });
  }
}

const judged = results =>
  Object.fromEntries(
    Object.entries(results)
      .sort(([one], [other]) => (one < other ? -1 : 1))
      .map(([scenario, checks]) => [
        scenario,
        checks.map(({ id, name, description, status, errorMessage }) => ({ id, name, description, status, errorMessage })),
      ]),
  );

for (const [revision, scenarios] of Object.entries(input.revisions)) {
  await check(`conformance, ${revision}`, async () => {
    const direct = await run(revision, `${input.backend}/mcp`);
    const through = await run(revision, `http://127.0.0.1:${shim.address().port}/mcp`);
    assert.deepEqual(judged(through), judged(direct));
    // The SDK's server has no tasks, an extension, of which nothing is required.
    const required = Object.entries(direct).filter(([scenario]) => !scenario.startsWith('tasks-'));
    const checks = required.flatMap(([, checks]) => checks);
    const hold = checks.filter(({ status }) => status === 'SUCCESS').length;
    process.stdout.write(`${required.length} scenarios, ${checks.length} checks, of which ${hold} hold\n`);
    assert.equal(required.length, scenarios);
    assert.deepEqual(checks.filter(({ status }) => status !== 'SUCCESS' && status !== 'INFO'), []);
  });
}

shim.close();
shim.closeAllConnections();
done();
