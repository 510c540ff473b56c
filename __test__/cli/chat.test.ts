import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { complete } from '../../lib/cli/chat/commands.ts';
import { Conversation } from '../../lib/cli/chat/conversation.ts';
import { History, historyPath } from '../../lib/cli/chat/history.ts';
import { PipeInput, TerminalInput } from '../../lib/cli/chat/input.ts';
import { Repl } from '../../lib/cli/chat/repl.ts';
import { styleFor } from '../../lib/cli/style.ts';
import type { CliIo } from '../../lib/cli/io.ts';
import { ScriptedModel } from '../helpers/scripted.ts';
import { tempDir } from '../helpers/temp.ts';

const never = new AbortController().signal;

async function pipe(input: string, ...answers: string[]) {
  const model = await ScriptedModel.load(...answers);
  let [stdout, stderr] = ['', ''];
  const io: CliIo = { stdout: { write: (t) => (stdout += t) }, stderr: { write: (t) => (stderr += t) } };
  const stdin = new PassThrough();
  stdin.end(input);
  const conversation = new Conversation(model, { contextShift: 'error', settings: {} });
  const options = { io, input: new PipeInput(stdin), conversation, style: styleFor(io.stdout) };
  await new Repl({ ...options, interactive: false, verbose: false, signal: never }).run();
  return { stdout, stderr, model, conversation, exitCode: io.exitCode };
}

/** A chat at a terminal; `type` sends keys and waits until the prompt is there, and everything is written. */
async function terminal(...answers: string[]) {
  const model = await ScriptedModel.load(...answers);
  let screen = '';
  const stdout = Object.assign(
    new Writable({
      write(chunk: Buffer, _, done) {
        screen += chunk.toString();
        done();
      },
    }),
    { isTTY: true as const, columns: 80, rows: 24 },
  );
  const raw: boolean[] = [];
  const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (on: boolean) => void raw.push(on) });
  const io: CliIo = { stdin, stdout, stderr: stdout };
  const style = styleFor(stdout, {});
  const history = new History(join(tempDir(), 'state', 'history'));
  const input = new TerminalInput({ stdin, stdout, style, history, complete });
  const conversation = new Conversation(model, { contextShift: 'error', settings: {} });
  const repl = new Repl({ io, input, conversation, style, interactive: true, verbose: false, signal: never });
  const ended = repl.run().finally(() => input.close());
  const settle = async (): Promise<void> => {
    for (let [before, same] = [screen, 0]; same < 5; same = before === screen ? same + 1 : 0) {
      before = screen;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const type = async (keys: string): Promise<string> => {
    await settle();
    const from = screen.length;
    stdin.write(keys);
    await settle();
    return screen.slice(from);
  };
  return { model, conversation, type, ended, raw, history, screen: () => screen, stdin };
}

const contents = ({ messages }: Conversation): unknown[] => messages.map(({ content }) => content);

describe('a chat over a pipe', () => {
  it('answers line by line, with the history, without colours', async () => {
    const { stdout, stderr, model, exitCode } = await pipe('one\ntwo \\\nthree\n', 'First.', 'Second.');
    expect([stdout, stderr, exitCode]).toEqual(['First.\nSecond.\n', '', undefined]);
    expect(model.prompts[1]).toMatch(/one<\|im_end\|>.*First\.<\|im_end\|>.*two \nthree<\|im_end\|>/s);
  });

  it('keeps thinking to itself', async () => {
    expect((await pipe('one', '<think>\nHm.\n</think>\n\nYes.')).stdout).toBe('Yes.\n');
  });

  it('obeys commands, and goes on after mistakes, which make the exit code 1', async () => {
    const { stdout, stderr, exitCode } = await pipe('/sett x=1\n/set temp=hot\n/undo now\nhello\n/exit\nnever', 'Hi.');
    expect(stdout).toBe('Hi.\n');
    expect(stderr.split('\n')).toEqual([
      'mlx-node: there is no command /sett: did you mean /set?',
      'mlx-node: temperature must be a number from 0 (0 is greedy), got "hot"',
      'mlx-node: /undo takes nothing after it',
      '',
    ]);
    expect(exitCode).toBe(1);
  });

  it('a message may begin with a path', async () => {
    expect((await pipe('/etc/hosts is what?', 'A file.')).stdout).toBe('A file.\n');
  });

  it('sets, shows and takes back settings and the system message', async () => {
    const input =
      '/set\n/set temp=0.5\n/set top-k 7\n/set thinking=off\n/set max_tokens=20\n/set top_k=\n/set thinking=\n/system Be brief.\nhello\n/system\n/system ""\n/system\n';
    const { stderr, model, conversation } = await pipe(input, 'Hi.');
    expect(stderr.split('\n').slice(0, 11)).toEqual([
      "All settings are the checkpoint's.",
      'temperature=0.5',
      'temperature=0.5  topK=7',
      'temperature=0.5  topK=7  enableThinking=false',
      'temperature=0.5  topK=7  enableThinking=false  maxTokens=20',
      'temperature=0.5  enableThinking=false  maxTokens=20',
      'temperature=0.5  maxTokens=20',
      'The system message is set.',
      'Be brief.',
      'The system message is gone.',
      'There is no system message.',
    ]);
    expect(model.options[0]).toMatchObject({ temperature: 0.5, maxTokens: 20 });
    expect(model.options[0]).not.toHaveProperty('topK');
    expect(model.prompts[0]).toMatch(/^<\|im_start\|>system\nBe brief\./);
    expect(contents(conversation)).toEqual(['hello', 'Hi.']);
  });

  it('takes turns back, answers anew, begins anew', async () => {
    const { stdout, conversation } = await pipe('one\ntwo\n/undo\n/regenerate\n', 'A.', 'B.', 'C.');
    expect(stdout).toBe('A.\nB.\nC.\n');
    expect(contents(conversation)).toEqual(['one', 'C.']);
    const empty = await pipe('one\n/clear\n/regenerate\n/undo\n', 'A.');
    expect(empty.conversation.messages).toEqual([]);
    expect(empty.stderr).toMatch(/no answer yet.*nothing to undo/s);
  });

  it('saves and loads', async () => {
    const file = join(tempDir(), 'chat.json');
    await pipe(`/set seed=3\n/system Be brief.\none\n/save ${file}\n`, 'A.');
    const { conversation, stderr, model } = await pipe(`/load ${file}\ntwo\n`, 'B.');
    expect(stderr).toBe(`Loaded 3 messages of ${file}.\n`);
    expect(contents(conversation)).toEqual(['Be brief.', 'one', 'A.', 'two', 'B.']);
    expect(model.options[0]).toMatchObject({ seed: 3 });
    writeFileSync(file, '{}');
    expect((await pipe(`/load ${file}\n/load\n/load ${file}x\n`)).stderr).toMatch(
      /not a session.*ERR_MLX_LOAD.*needs the name of a file.*cannot be read/s,
    );
  });
});

describe('a chat at a terminal', () => {
  it('edits a line, colours the prompt, dims the thinking', async () => {
    const { type, conversation, ended, raw, screen } = await terminal('<think>\nHm.\n</think>\n\nYes.');
    expect(screen()).toContain('\x1b[?2004h');
    const shown = await type('helo\x1b[Dl\r');
    expect(conversation.messages[0]!.content).toBe('hello');
    // Every piece of the thinking is dim, and nothing of the answer.
    const marked = shown.replaceAll('\x1b[2m', '<').replaceAll('\x1b[22m', '>').replaceAll('><', '');
    expect(marked).toContain('<Hm.>\n\nYes.\n');
    expect(shown).toContain('\x1b[35m>>> ');
    await type('\x04');
    await ended;
    expect(screen().endsWith('\n\x1b[?2004l')).toBe(true);
    expect([raw[0], raw.at(-1)]).toEqual([true, false]);
  });

  it('Ctrl-C stops the answer and keeps the chat, and what was read of the answer', async () => {
    const { model, type, conversation, stdin } = await terminal(`${'word '.repeat(200)}`, 'Fine.', 'word '.repeat(200));
    let count = 0;
    model.onToken = () => void ((count += 1) === 5 && stdin.write('\x03'));
    expect(await type('go\r')).toContain('Stopped.');
    const [, partial] = contents(conversation) as string[];
    expect(partial).toMatch(/^(word ?){2,100}$/);
    expect(await type('and?\r')).toContain('Fine.');
    expect(contents(conversation)).toEqual(['go', partial, 'and?', 'Fine.']);
    count = 0;
    await type('/regenerate\r');
    expect(contents(conversation)).toEqual(['go', partial, 'and?', expect.stringMatching(/^word/)]);
    await type('\x04');
  });

  it('an answer that is stopped while it is thought about leaves no trace', async () => {
    const { model, type, conversation, stdin } = await terminal('<think>\nNever.\n</think>\n\nNever.');
    model.onToken = () => void stdin.emit('data', '\x03');
    expect(await type('go\r')).toContain('the message is not kept');
    expect(conversation.messages).toEqual([]);
    await type('\x04');
  });

  it('what is typed while the answer comes is there afterwards', async () => {
    const { model, type, conversation, stdin } = await terminal('One.', 'Two.');
    model.onToken = () => {
      model.onToken = () => undefined;
      stdin.write('next\r');
    };
    await type('first\r');
    expect(contents(conversation)).toEqual(['first', 'One.', 'next', 'Two.']);
    await type('\x04');
  });

  it('Ctrl-C at the prompt forgets the line; at an empty one twice, it leaves', async () => {
    const { type, conversation, ended } = await terminal('Yes.');
    expect(await type('nonsense\x03')).not.toContain('once more');
    await type('"""\r');
    expect(await type('more\r\x03')).not.toContain('once more');
    await type('sense\r');
    expect(contents(conversation)).toEqual(['sense', 'Yes.']);
    expect(await type('\x03')).toContain('Ctrl-C once more');
    await type('\x03');
    await ended;
  });

  it('takes messages of several lines, pastes, and brings them back with the arrow', async () => {
    const { type, conversation, history } = await terminal('A.', 'B.', 'C.', 'D.');
    expect(await type('one\\\rtwo\r')).toContain('... ');
    await type('\x1b[200~three\n\tfour\x1b[201~ five\r');
    await type('\x1b[A\r');
    await type('\x1b[A\x1b[A\r');
    expect(contents(conversation).filter((_, i) => i % 2 === 0)).toEqual([
      'one\ntwo',
      'three\n\tfour five',
      'three\n\tfour five',
      'one\ntwo',
    ]);
    await type('\x04');
    expect(history.read()[0]).toBe('one\ntwo');
  });

  it('completes commands', async () => {
    const { type, conversation } = await terminal();
    await type('/sys');
    await type('\t');
    await type('Be brief.\r');
    expect(conversation.system).toBe('Be brief.');
    await type('\x04');
  });
});

describe('completion', () => {
  it('offers commands, settings and files', () => {
    expect(complete('/s')).toEqual([['/system ', '/set ', '/save ', '/stats'], '/s']);
    expect(complete('/set top')[0]).toEqual(expect.arrayContaining(['topK=', 'topP=']));
    const dir = tempDir();
    writeFileSync(join(dir, 'chat.json'), '');
    writeFileSync(join(dir, '.hidden'), '');
    mkdirSync(join(dir, 'chats'));
    expect(complete(`/load ${dir}/`)).toEqual([[`${dir}/chat.json`, `${dir}/chats/`], `${dir}/`]);
    expect(complete(`/save ${dir}/chats`)[0]).toEqual([`${dir}/chats/`]);
    expect(complete('/load /nowhere/x')[0]).toEqual([]);
    expect(complete('hello')).toEqual([[], 'hello']);
  });
});

describe('the history', () => {
  it('lies in the state folder, readable for its owner alone, and stays short', () => {
    expect(historyPath({ XDG_STATE_HOME: '/state' })).toBe('/state/mlx-node/chat-history');
    expect(historyPath({})).toMatch(/\.local\/state\/mlx-node\/chat-history$/);
    const path = join(tempDir(), 'a', 'history');
    const history = new History(path);
    expect(history.read()).toEqual([]);
    history.add('one');
    history.add('two\nlines');
    expect(history.read()).toEqual(['two\nlines', 'one']);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    writeFileSync(path, Array.from({ length: 2500 }, (_, i) => `"${i}"\n`).join('') + 'broken\n');
    expect(history.read()).toHaveLength(1000);
    expect(history.read()[0]).toBe('2499');
    expect(readFileSync(path, 'utf8').split('\n')).toHaveLength(1001);
  });

  it('that cannot be written is no reason to end a chat', () => {
    const file = join(tempDir(), 'file');
    writeFileSync(file, '');
    const history = new History(join(file, 'history'));
    history.add('one');
    expect(history.read()).toEqual([]);
  });
});

describe('colours', () => {
  it('are for terminals, and NO_COLOR and dumb ones have none', () => {
    const shown = (isTTY: boolean, env: NodeJS.ProcessEnv): string =>
      styleFor({ write: () => true, isTTY }, env)('red', 'x');
    expect(shown(true, {})).toBe('\x1b[31mx\x1b[39m');
    expect(shown(false, {})).toBe('x');
    expect(shown(true, { NO_COLOR: '1' })).toBe('x');
    expect(shown(true, { TERM: 'dumb' })).toBe('x');
  });
});
