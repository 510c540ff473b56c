/**
 * The TypeScript of our documents, as programs. A fence says what becomes of it: `ts run`, or `ts no-run: why`.
 *
 * The fences of one `##` section are one program, after all imports of the document. In what runs, `expression; // → text` (or a
 * declaration of one name) at the end of a line says what the value looks like; `// → throws CODE` that it cannot be had.
 */

/** One fence. */
export interface Snippet {
  /** The line of its first line of code, from 1. */
  line: number;
  code: string[];
  info: string;
  runs: boolean;
}

/** The fences between two headings. */
export interface Section {
  heading: string;
  snippets: Snippet[];
}

const isTypeScript = /^(ts|typescript|tsx|js|javascript|mjs)\b/;

/** Sections with TypeScript. Throws for a fence that says neither what it is nor why it does not run. */
export function sectionsOf(markdown: string, file: string): Section[] {
  const sections: Section[] = [{ heading: '', snippets: [] }];
  let open: Snippet | undefined;
  let fenced = false;
  markdown.split('\n').forEach((text, i) => {
    const fence = /^\s*```(.*)$/.exec(text);
    if (fenced) {
      if (fence !== null) [open, fenced] = [undefined, false];
      else open?.code.push(text);
    } else if (fence !== null) {
      fenced = true;
      const info = fence[1]!.trim();
      if (!isTypeScript.test(info)) return;
      if (info !== 'ts run' && !/^ts no-run: \S/.test(info))
        throw new Error(`${file}:${i + 1}: a snippet is 'ts run' or 'ts no-run: why', not '${info}'`);
      open = { line: i + 2, code: [], info, runs: info === 'ts run' };
      sections.at(-1)!.snippets.push(open);
    } else if (text.startsWith('## ')) sections.push({ heading: text.slice(3), snippets: [] });
  });
  return sections.filter(({ snippets }) => snippets.length > 0);
}

const importStart = /^import\b/;
const importEnd = /from '[^']+';$|^import '[^']+';$/;

/** Splits code into its imports and the rest, where imports have become empty lines. */
function splitImports(code: readonly string[]): { imports: string[]; rest: string[] } {
  const imports: string[] = [];
  let current: string | undefined;
  const rest = code.map((text) => {
    if (current === undefined && !importStart.test(text)) return text;
    current = current === undefined ? text : `${current} ${text.trim()}`;
    if (importEnd.test(current)) {
      imports.push(current);
      current = undefined;
    }
    return '';
  });
  return { imports, rest };
}

/** Imports of a document, each name once, on one line. */
function mergedImports(imports: readonly string[]): string {
  const names = new Map<string, Set<string>>();
  for (const text of imports) {
    const [, list, from] = /^import (.*) from '([^']+)';$/.exec(text)!;
    const braces = /^(type )?\{(.*)\}$/.exec(list!.trim());
    const parts = braces === null ? [list!] : braces[2]!.split(',').map((name) => `${braces[1] ?? ''}${name.trim()}`);
    const set = names.get(from!) ?? names.set(from!, new Set()).get(from!)!;
    for (const part of parts) if (part !== '' && part !== 'type ') set.add(braces === null ? `=${part}` : part);
  }
  return [...names]
    .map(([from, set]) => {
      const whole = [...set]
        .filter((name) => name.startsWith('='))
        .map((name) => `import ${name.slice(1)} from '${from}';`);
      const some = [...set].filter((name) => !name.startsWith('='));
      return [...whole, ...(some.length > 0 ? [`import { ${some.join(', ')} } from '${from}';`] : [])].join(' ');
    })
    .join(' ');
}

export interface Program {
  /** Of the section; for messages. */
  heading: string;
  /** Every line of code stands where it stands in the document, so that errors name the right one. */
  source: string;
}

/** The programs of a document. `running` gives only what runs, with its checks written out; else all of it, as it stands. */
export function programsOf(sections: readonly Section[], running: boolean): Program[] {
  const imports = mergedImports(
    sections.flatMap(({ snippets }) => snippets.flatMap(({ code }) => splitImports(code).imports)),
  );
  return sections
    .map(({ heading, snippets }) => ({ heading, snippets: snippets.filter(({ runs }) => runs || !running) }))
    .filter(({ snippets }) => snippets.length > 0)
    .map(({ heading, snippets }) => {
      const lines: string[] = [imports];
      for (const { line, code } of snippets) {
        while (lines.length < line - 1) lines.push('');
        splitImports(code).rest.forEach((text, i) => lines.push(running ? checked(text, line + i) : text));
      }
      return { heading, source: `${lines.join('\n')}\nexport {};\n` };
    });
}

/** The mark of a check, for counting them. */
export const mark = /; \/\/ → (.+)$/;

/** A line with its check in code. */
function checked(text: string, line: number): string {
  const match = mark.exec(text);
  if (match === null) return text;
  const expected = JSON.stringify(match[1]!.trim());
  const statement = text.slice(0, match.index);
  const declared = /^\s*(?:const|let) (\w+)(?:: [^=]+)? = /.exec(statement);
  const check = (value: string): string =>
    /\bawait\b/.test(value)
      ? `await __check(${line}, ${expected}, async () => (${value}));`
      : `__check(${line}, ${expected}, () => (${value}));`;
  if (declared !== null) return `${statement}; ${check(declared[1]!)}`;
  const indent = /^\s*/.exec(statement)![0];
  return `${indent}${check(statement.trim())}`;
}

/** How many checks the running snippets hold. */
export const countChecks = (sections: readonly Section[]): number =>
  sections
    .flatMap(({ snippets }) => snippets.filter(({ runs }) => runs))
    .reduce((sum, { code }) => sum + code.filter((text) => mark.test(text)).length, 0);
