// What every script here stands on. It is given one JSON document, asks the test for what only that one can
// make, line by line, and says which of its cases have held.

import { createInterface } from 'node:readline';

export const input = JSON.parse(process.argv[2]);

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const tell = message => process.stdout.write(`${JSON.stringify(message)}\n`);

export async function ask(question) {
  tell({ ask: question });
  const { value } = await answers.next();
  return JSON.parse(value);
}

export async function check(name, run) {
  try {
    await run();
  } catch (error) {
    throw new Error(`${name}: ${error.message}`, { cause: error });
  }
  tell({ passed: name });
}

// An open standard input would keep the process.
export const done = () => process.stdin.destroy();
