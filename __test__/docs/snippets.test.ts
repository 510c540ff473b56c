import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tempDir } from '../helpers/temp.ts';
import { countChecks, programsOf, sectionsOf } from './snippets.ts';

const root = join(import.meta.dirname, '..', '..');
// Inside the package, so that 'mlx-node' is the built package itself, with the declarations that its users get.
const work = join(root, 'target', `snippets-${process.pid}`);

const documents = [
  'README.md',
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name)),
]
  .map((file) => ({ file, sections: sectionsOf(readFileSync(join(root, file), 'utf8'), file) }))
  .filter(({ sections }) => sections.length > 0);

/** The file of a program; `docs/arrays.md` and its third section give docs_arrays.md-3.ts. */
const nameOf = (file: string, i: number): string => `${file.replaceAll('/', '_')}-${i}`;

/** Writes programs and compiles them; the compiler's complaints with the lines of the documents. */
function compile(folder: string, running: boolean): string {
  mkdirSync(folder, { recursive: true });
  for (const { file, sections } of documents) {
    programsOf(sections, running).forEach(({ source }, i) =>
      writeFileSync(join(folder, `${nameOf(file, i)}.ts`), source),
    );
  }
  const compilerOptions = {
    rootDir: '.',
    outDir: 'js',
    paths: {},
    noCheck: running,
    noEmit: !running,
    sourceMap: false,
    declaration: false,
  };
  const config = { extends: relative(folder, join(root, 'tsconfig.json')), compilerOptions, include: ['*.ts'] };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
  const { stdout, stderr } = spawnSync(
    join(root, 'node_modules/.bin/tsc'),
    ['--project', folder, '--pretty', 'false'],
    { cwd: folder, encoding: 'utf8' },
  );
  return (stdout + stderr).replaceAll(
    /^(.+)\.md-\d+\.ts\((\d+),\d+\)/gm,
    (_, name: string, line: string) => `${name.replaceAll('_', '/')}.md:${line}`,
  );
}

beforeAll(() => {
  const problems = compile(join(work, 'run'), true);
  if (problems !== '') throw new Error(problems);
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe('the snippets of the documents', () => {
  it('type-check under strict rules', () => {
    expect(compile(join(work, 'check'), false)).toBe('');
  });

  it.each(documents.filter(({ sections }) => programsOf(sections, true).length > 0))(
    '$file runs, and gives what it says',
    ({ file, sections }) => {
      const programs = programsOf(sections, true).map((_, i) => join(work, 'run/js', `${nameOf(file, i)}.js`));
      expect(programs.filter((path) => !existsSync(path))).toEqual([]);
      const { stdout, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, 'runner.mjs'), ...programs], {
        cwd: tempDir(),
        encoding: 'utf8',
      });
      const { ran, problems } = JSON.parse(stdout || '{}') as {
        ran: number;
        problems: { line: number; problem: string }[];
      };
      expect({ stderr, problems: problems?.map(({ line, problem }) => `${file}:${line}: ${problem}`) }).toEqual({
        stderr: '',
        problems: [],
      });
      expect(ran).toBe(countChecks(sections));
    },
  );
});

describe('how snippets are read', () => {
  const document = [
    '# T',
    '```ts run',
    "import { mx } from 'mlx-node';",
    '```',
    '## A',
    '```ts run',
    'const a = mx.zeros([2]); // → [0, 0]',
    'await a.evalAsync(); // → x',
    '```',
    '```sh',
    'ls',
    '```',
    '## B',
    '```ts no-run: a reason',
    'a.add(1);',
    '```',
  ].join('\n');

  it('as one program for each section, line by line, after the imports', () => {
    const sections = sectionsOf(document, 'd');
    expect(sections.map(({ heading }) => heading)).toEqual(['', 'A', 'B']);
    const [, a] = programsOf(sections, true);
    expect(programsOf(sections, true)).toHaveLength(2);
    expect(programsOf(sections, false)).toHaveLength(3);
    const lines = a!.source.split('\n');
    expect(lines[0]).toBe("import { mx } from 'mlx-node';");
    expect(lines[6]).toBe('const a = mx.zeros([2]); __check(7, "[0, 0]", () => (a));');
    expect(lines[7]).toBe('await __check(8, "x", async () => (await a.evalAsync()));');
    expect(countChecks(sections)).toBe(2);
  });

  it('not when they do not say whether they run', () => {
    expect(() => sectionsOf('```ts\n1;\n```', 'd')).toThrow("d:1: a snippet is 'ts run' or 'ts no-run: why', not 'ts'");
    expect(() => sectionsOf('```js run\n1;\n```', 'd')).toThrow('js run');
    expect(() => sectionsOf('```ts no-run\n1;\n```', 'd')).toThrow('no-run');
  });
});
