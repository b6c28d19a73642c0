// The conformance suite imports a function that Node.js has from version 22 on, and uses it in another command.

import { register } from 'node:module';

const missing = `export * from 'node:fs'; export const globSync = undefined;`;
const shim = `data:text/javascript,${encodeURIComponent(missing)}`;
const hooks = `
  export const resolve = (name, context, next) =>
    name === 'fs' && context.parentURL.includes('/conformance/')
      ? { url: ${JSON.stringify(shim)}, shortCircuit: true }
      : next(name, context);
`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
