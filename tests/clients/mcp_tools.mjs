// An MCP server with what the conformance suite asks of one, by the names it asks for, and with some tools of
// these tests. It is made anew for each session, or for each request of the revision without sessions.

import { randomBytes } from 'node:crypto';
import {
  acceptedContent,
  CLIENT_CAPABILITIES_META_KEY,
  createRequestStateCodec,
  fromJsonSchema,
  inputRequired,
  McpServer,
  ResourceTemplate,
} from '@modelcontextprotocol/server';

const PICTURE = Buffer.from('it is never looked at').toString('base64');
const PAUSE = 20;

const state = createRequestStateCodec({ key: randomBytes(32) });

// Calls that wait for another call.
const held = new Map();

const says = text => ({ content: [{ type: 'text', text }] });
const message = content => ({ role: 'user', content });
const string = { type: 'string' };
const object = (properties = {}, required = Object.keys(properties)) => ({ type: 'object', properties, required });
const pause = () => new Promise(resolve => setTimeout(resolve, PAUSE));

const elicit = (message, properties) => inputRequired.elicit({ message, requestedSchema: object(properties) });
const sample = (text, maxTokens) =>
  inputRequired.createMessage({ messages: [message({ type: 'text', text })], maxTokens });
const textResource = (uri, mimeType, text) => ({ type: 'resource', resource: { uri, mimeType, text } });
const picture = { type: 'image', data: PICTURE, mimeType: 'image/png' };

async function progress({ mcpReq }, steps, between) {
  const progressToken = mcpReq._meta?.progressToken;
  for (const step of progressToken === undefined ? [] : steps) {
    await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress: step, total: 100 } });
    await between(step);
  }
}

// Of the revisions in which a server may ask its client in the middle of a call.
const asksClient = (method, params) => async (args, { mcpReq }) => {
  const answer = await mcpReq.send({ method, params: params(args) });
  return says(`answered: ${JSON.stringify(answer)}`);
};

// Of the revision in which a call ends with a question and is made again with the answer.
const asksAgain = (questions, withState, done) => async (_, { mcpReq }) => {
  const answers = mcpReq.inputResponses ?? {};
  const complete = Object.keys(questions).every(key => answers[key] !== undefined);
  if (complete && (!withState || mcpReq.requestState() !== undefined)) return done(answers);
  const again = { inputRequests: questions };
  if (withState) again.requestState = await state.mint({ asked: Object.keys(questions) });
  return inputRequired(again);
};

const enums = {
  untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
  titledSingle: { type: 'string', oneOf: [{ const: 'value1', title: 'One' }, { const: 'value2', title: 'Two' }] },
  legacyEnum: { type: 'string', enum: ['opt1', 'opt2'], enumNames: ['One', 'Two'] },
  untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
  titledMulti: { type: 'array', items: { anyOf: [{ const: 'value1', title: 'One' }, { const: 'value2', title: 'Two' }] } },
};

const defaults = {
  name: { type: 'string', default: 'John Doe' },
  age: { type: 'integer', default: 30 },
  score: { type: 'number', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
  verified: { type: 'boolean', default: true },
};

const whole = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  $defs: { address: { $anchor: 'addressDef', ...object({ street: string, city: string }, []) } },
  ...object(
    {
      name: string,
      address: { $ref: '#/$defs/address' },
      contactMethod: { type: 'string', enum: ['phone', 'email'] },
      phone: string,
      email: string,
    },
    [],
  ),
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
};

const name = { user_name: elicit('What is your name?', { name: string }) };
const confirm = { confirm: elicit('Please confirm', { ok: { type: 'boolean' } }) };
const roots = { client_roots: inputRequired.listRoots() };
const firstWords = answers => says(`Hello, ${acceptedContent(answers, 'user_name')?.name}!`);

const tools = server => ({
  // Of these tests.
  whoami: (_, { http }) => {
    const user = http.req.headers.get('x-forwarded-user');
    return says(JSON.stringify({ user, token: http.req.headers.has('authorization') }));
  },
  hold: async (_, ctx) => {
    await progress(ctx, [1, 2], step => step === 1 && new Promise(resolve => held.set('hold', resolve)));
    return says('released');
  },
  release: () => {
    held.get('hold')();
    return says('done');
  },

  // Of the suite.
  test_simple_text: () => says('This is a simple text response for testing.'),
  test_image_content: () => ({ content: [picture] }),
  test_audio_content: () => ({ content: [{ type: 'audio', data: PICTURE, mimeType: 'audio/wav' }] }),
  test_embedded_resource: () => ({ content: [textResource('test://embedded-resource', 'text/plain', 'embedded')] }),
  test_multiple_content_types: () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      picture,
      textResource('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}'),
    ],
  }),
  test_tool_with_logging: async (_, { mcpReq }) => {
    for (const data of ['started', 'processing', 'completed']) {
      await mcpReq.notify({ method: 'notifications/message', params: { level: 'info', data } });
      await pause();
    }
    return says('logged');
  },
  test_tool_with_progress: async (_, ctx) => {
    await progress(ctx, [0, 50, 100], pause);
    return says(`${ctx.mcpReq._meta?.progressToken}`);
  },
  test_error_handling: () => {
    throw new Error('This tool intentionally returns an error for testing');
  },
  test_reconnection: async (_, ctx) => {
    ctx.http.closeSSE?.();
    await pause();
    return says('reconnected');
  },
  test_sampling: [
    object({ prompt: string }),
    asksClient('sampling/createMessage', ({ prompt }) => ({
      messages: [message({ type: 'text', text: prompt })],
      maxTokens: 100,
    })),
  ],
  test_elicitation: [
    object({ message: string }),
    asksClient('elicitation/create', ({ message }) => ({ message, requestedSchema: object({ response: string }) })),
  ],
  test_elicitation_sep1034_defaults: asksClient('elicitation/create', () => ({
    message: 'Defaults',
    requestedSchema: object(defaults, []),
  })),
  test_elicitation_sep1330_enums: asksClient('elicitation/create', () => ({
    message: 'Enums',
    requestedSchema: object(enums, []),
  })),
  json_schema_2020_12_tool: [whole, args => says(JSON.stringify(args))],
  test_x_mcp_header: [
    object({ region: { type: 'string', 'x-mcp-header': 'Region' }, level: { type: 'integer' } }, []),
    ({ region }) => says(`region=${region}`),
  ],
  test_missing_capability: asksAgain({ llm_answer: sample('Say pong', 16) }, false, () => says('asked')),
  test_streaming_elicitation: () => says('nothing is asked here'),
  test_logging_tool: async (_, { mcpReq }) => {
    await mcpReq.log('info', 'only where the request has asked for it');
    return says('logged');
  },
  test_trigger_tool_change: () => {
    server.changed.tools();
    return says('changed');
  },
  test_trigger_prompt_change: () => {
    server.changed.prompts();
    return says('changed');
  },
  test_input_required_result_elicitation: asksAgain(name, false, firstWords),
  test_input_required_result_sampling: asksAgain(
    { capital_question: sample('What is the capital of France?', 100) },
    false,
    ({ capital_question }) => says(`It is said: ${capital_question.content?.text}`),
  ),
  test_input_required_result_list_roots: asksAgain(roots, false, ({ client_roots }) =>
    says(client_roots.roots.map(({ uri }) => uri).join(' ')),
  ),
  test_input_required_result_request_state: asksAgain(confirm, true, () => says('state-ok')),
  test_input_required_result_tampered_state: asksAgain(confirm, true, () => says('state-ok')),
  test_input_required_result_multiple_inputs: asksAgain(
    { ...name, greeting: sample('Generate a greeting', 50), ...roots },
    true,
    firstWords,
  ),
  test_input_required_result_multi_round: async (_, { mcpReq }) => {
    const { round = 0 } = mcpReq.requestState() ?? {};
    const questions = [
      { step1: elicit('Step 1: What is your name?', { name: string }) },
      { step2: elicit('Step 2: What is your favorite color?', { color: string }) },
    ];
    if (round === questions.length) return says('both rounds are over');
    return inputRequired({ inputRequests: questions[round], requestState: await state.mint({ round: round + 1 }) });
  },
  test_input_required_result_capabilities: (_, { mcpReq }) => {
    const declared = mcpReq.envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? {};
    if (mcpReq.inputResponses !== undefined) return says('answered');
    return inputRequired({
      inputRequests: {
        ...(declared.elicitation && name),
        ...(declared.sampling && { greeting: sample('Generate a greeting', 50) }),
        ...(declared.roots && roots),
      },
    });
  },
});

const resources = {
  'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
  'test://static-binary': { mimeType: 'image/png', blob: PICTURE },
  'test://watched-resource': { mimeType: 'text/plain', text: 'watched' },
};

const prompts = {
  test_simple_prompt: [{}, () => [{ type: 'text', text: 'This is a simple prompt for testing.' }]],
  test_prompt_with_arguments: [
    { arg1: string, arg2: string },
    ({ arg1, arg2 }) => [{ type: 'text', text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` }],
  ],
  test_prompt_with_embedded_resource: [
    { resourceUri: string },
    ({ resourceUri }) => [textResource(resourceUri, 'text/plain', 'embedded'), { type: 'text', text: 'Read it.' }],
  ],
  test_prompt_with_image: [{}, () => [picture, { type: 'text', text: 'Look at it.' }]],
};

// `changed` says on all open streams that a list has changed.
export function makeServer(changed, options = {}) {
  const server = new McpServer(
    { name: 'everything', version: '1.0.0' },
    {
      capabilities: {
        tools: { listChanged: true },
        resources: { subscribe: true, listChanged: true },
        prompts: { listChanged: true },
        logging: {},
        completions: {},
      },
      requestState: { verify: state.verify },
      ...options,
    },
  );
  const own = changed ?? {
    tools: () => server.sendToolListChanged(),
    prompts: () => server.sendPromptListChanged(),
  };
  for (const [name, tool] of Object.entries(tools({ changed: own }))) {
    const [schema, call] = Array.isArray(tool) ? tool : [object(), tool];
    server.registerTool(name, { description: name, inputSchema: fromJsonSchema(schema) }, async (...all) => call(...all));
  }
  for (const [uri, content] of Object.entries(resources)) {
    const about = { description: uri, mimeType: content.mimeType };
    server.registerResource(uri.slice('test://'.length), uri, about, async () => ({ contents: [{ uri, ...content }] }));
  }
  server.registerResource(
    'template',
    new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { description: 'a template', mimeType: 'application/json' },
    async ({ href }, { id }) => ({
      contents: [{ uri: href, mimeType: 'application/json', text: JSON.stringify({ id, data: `Data for ID: ${id}` }) }],
    }),
  );
  for (const [name, [properties, contents]] of Object.entries(prompts)) {
    const argsSchema = fromJsonSchema(object(properties));
    server.registerPrompt(name, { description: name, argsSchema }, async args => ({
      messages: contents(args).map(message),
    }));
  }
  const asksForContext = asksAgain({ user_context: elicit('Which context?', { context: string }) }, false, answers => ({
    messages: [message({ type: 'text', text: `Context: ${acceptedContent(answers, 'user_context')?.context}` })],
  }));
  server.registerPrompt('test_input_required_result_prompt', { description: 'asks for context' }, ctx =>
    asksForContext({}, ctx),
  );
  for (const method of ['resources/subscribe', 'resources/unsubscribe', 'logging/setLevel']) {
    server.server.setRequestHandler(method, async () => ({}));
  }
  server.server.setRequestHandler('completion/complete', async () => ({ completion: { values: [], total: 0 } }));
  return server;
}
