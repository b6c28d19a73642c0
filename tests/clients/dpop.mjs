// Proofs by the libraries that clients use, and by hand with another one's keys and signatures.

import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';

import * as dpop from 'dpop';
import * as jose from 'jose';
import * as oauth from 'oauth4webapi';

import { ask, check, done, input } from './harness.mjs';

const { origin, asksForNonce } = input;
const path = '/api/agents/caf%C3%A9/%7eabout?limit=1&after=%2F';
const url = new URL(path, origin);
const withoutQuery = url.origin + url.pathname;

const call = (token, proof, init = {}, scheme = 'DPoP') => fetch(url, {
  ...init,
  headers: { ...init.headers, authorization: `${scheme} ${token}`, ...(proof && { dpop: proof }) },
});

const refused = async (response, code) => {
  const body = await response.json();
  assert.deepEqual([response.status, body.code], [401, code]);
};

// Sends what `make` makes, and again with a nonce where one is asked for, as clients do.
let nonce;
const send = async (token, make, init) => {
  let response = await call(token, await make(nonce), init);
  if (asksForNonce && response.status === 401 && response.headers.has('dpop-nonce')) {
    await refused(response, 'dpop_nonce_required');
    nonce = response.headers.get('dpop-nonce');
    response = await call(token, await make(nonce), init);
  }
  return response;
};

for (const algorithm of ['ES256', 'RS256', 'PS256', 'Ed25519']) {
  await check(`dpop, ${algorithm}`, async () => {
    const keys = await dpop.generateKeyPair(algorithm);
    const token = await ask({ jkt: await dpop.calculateThumbprint(keys.publicKey) });
    let last;
    const make = async nonce => last = await dpop.generateProof(keys, withoutQuery, 'GET', nonce, token);
    for (let time = 0; time < 3; time++) {
      const response = await send(token, make);
      assert.deepEqual([response.status, await response.text()], [200, 'hello']);
    }
    await refused(await call(token, last), 'dpop_proof_replayed');
    await refused(await call(token), 'dpop_proof_missing');
    await refused(await call(token, last, {}, 'Bearer'), 'token_requires_dpop');
    await refused(await call(token, last, { method: 'DELETE' }), 'dpop_wrong_method');
    const others = await dpop.generateKeyPair(algorithm);
    const stolen = await dpop.generateProof(others, withoutQuery, 'GET', nonce, token);
    await refused(await call(token, stolen), 'dpop_wrong_key');
    const elsewhere = await dpop.generateProof(keys, `${origin}/api`, 'GET', nonce, token);
    await refused(await call(token, elsewhere), 'dpop_wrong_target');
    const unbound = await dpop.generateProof(keys, withoutQuery, 'GET', nonce);
    await refused(await call(token, unbound), 'dpop_proof_malformed');
    const other = await dpop.generateProof(keys, withoutQuery, 'GET', nonce, `${token}x`);
    await refused(await call(token, other), 'dpop_wrong_token');
  });
}

for (const algorithm of ['ES256', 'ES384', 'RS256', 'PS256', 'EdDSA', 'Ed25519']) {
  await check(`jose, ${algorithm}`, async () => {
    const { publicKey, privateKey } = await jose.generateKeyPair(algorithm);
    const jwk = await jose.exportJWK(publicKey);
    const token = await ask({ jkt: await jose.calculateJwkThumbprint(jwk) });
    const ath = createHash('sha256').update(token).digest('base64url');
    const make = (nonce, header, claims) =>
      new jose.SignJWT({ htm: 'POST', htu: withoutQuery, ath, ...(nonce && { nonce }), ...claims })
        .setProtectedHeader({ typ: 'dpop+jwt', alg: algorithm, jwk, ...header })
        .setJti(randomUUID())
        .setIssuedAt()
        .sign(privateKey);
    const post = { method: 'POST', body: '{"message":"hello"}', headers: { 'content-type': 'application/json' } };
    const response = await send(token, make, post);
    assert.deepEqual([response.status, await response.text()], [200, 'hello']);
    const typ = await make(nonce, { typ: 'JWT' });
    await refused(await call(token, typ, post), 'dpop_proof_malformed');
    const withKid = await make(nonce, { kid: 'mine' }, { htu: url.href });
    assert.equal((await call(token, withKid, post)).status, 200);
  });
}

await check('oauth4webapi', async () => {
  const keys = await oauth.generateKeyPair('ES256');
  const token = await ask({ jkt: await dpop.calculateThumbprint(keys.publicKey) });
  const options = { DPoP: oauth.DPoP({}, keys), [oauth.allowInsecureRequests]: true };
  const get = (token, options) =>
    oauth.protectedResourceRequest(token, 'GET', url, new Headers(), undefined, options);
  if (asksForNonce) {
    const asked = await get(token, options).then(() => assert.fail('passed'), error => error);
    assert(oauth.isDPoPNonceError(asked), `${asked}`);
  }
  // The nonce is remembered by then.
  for (let time = 0; time < 3; time++) {
    const response = await get(token, options);
    assert.deepEqual([response.status, await response.text()], [200, 'hello']);
  }

  // Another parser's opinion of the challenges.
  const bearer = { [oauth.allowInsecureRequests]: true };
  const error = await get(token, bearer).then(() => assert.fail('passed'), error => error);
  assert(error instanceof oauth.WWWAuthenticateChallengeError, `${error}`);
  assert.deepEqual(error.cause.map(({ scheme }) => scheme), ['bearer', 'dpop']);
  const [ofBearer, ofProof] = error.cause.map(({ parameters }) => parameters);
  assert.equal(ofBearer.error, 'invalid_token');
  assert.equal(ofProof.error, undefined);
  assert.equal(ofProof.algs, 'ES256 ES384 EdDSA RS256 PS256');
});

done();
