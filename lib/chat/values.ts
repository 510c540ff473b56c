import { isRecord, parseJson } from './json.js';

/** JSON's types, by the names that schemas give them: Python's and databases' too. */
function kindOf(type: string): 'string' | 'integer' | 'number' | 'boolean' | 'container' | 'null' | undefined {
  const name = type.trim().toLowerCase();
  if (/^(string|str|text|varchar|char|enum)$/.test(name)) return 'string';
  if (/^(u?int|long|short|unsigned)/.test(name)) return 'integer';
  if (/^(num|float|double)/.test(name)) return 'number';
  if (name.startsWith('bool')) return 'boolean';
  if (/^(object|array|dict|list|tuple)/.test(name)) return 'container';
  if (/^(null|none)$/.test(name)) return 'null';
  return undefined;
}

type Kind = NonNullable<ReturnType<typeof kindOf>>;

/** The types that a schema allows; undefined where it does not say. */
function kindsOf(schema: unknown): Set<Kind> | undefined {
  if (!isRecord(schema)) return undefined;
  const { type } = schema;
  const names = (Array.isArray(type) ? type : [type]).filter((name): name is string => typeof name === 'string');
  const kinds = new Set(names.map(kindOf).filter((kind) => kind !== undefined));
  for (const key of ['anyOf', 'oneOf', 'allOf']) {
    const parts = schema[key];
    if (Array.isArray(parts)) for (const part of parts) for (const kind of kindsOf(part) ?? []) kinds.add(kind);
  }
  if (kinds.size === 0 && Array.isArray(schema['enum'])) {
    for (const value of schema['enum'] as unknown[])
      kinds.add(
        typeof value === 'string'
          ? 'string'
          : value === null
            ? 'null'
            : typeof value === 'number'
              ? 'number'
              : typeof value === 'boolean'
                ? 'boolean'
                : 'container',
      );
  }
  // Types of somebody's own: whatever the text looks like.
  if (kinds.size === 0 && names.length > 0) return new Set(['container', 'number', 'boolean']);
  return kinds.size === 0 ? undefined : kinds;
}

const numeric = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * A value that a model wrote as plain text, as JSON text of the type that its schema asks for; where it does not fit, a string. `null`
 * is null whatever the type; without a schema only objects and arrays are taken as JSON.
 */
export function valueToJson(text: string, schema: unknown): string {
  const trimmed = text.trim();
  if (trimmed.toLowerCase() === 'null') return 'null';
  const kinds = kindsOf(schema);
  const asText = JSON.stringify(text);
  if (kinds === undefined) return containerToJson(trimmed, false) ?? asText;
  if (kinds.has('container')) {
    const json = containerToJson(trimmed, true);
    if (json !== undefined) return json;
  }
  if (kinds.has('string')) return asText;
  if (kinds.has('boolean') && /^(true|false)$/i.test(trimmed)) return trimmed.toLowerCase();
  if (kinds.has('number') || kinds.has('integer')) return numberToJson(trimmed, !kinds.has('number')) ?? asText;
  return asText;
}

/** A number as JSON; of whole numbers every digit stays, also beyond what a double holds. */
function numberToJson(text: string, integral: boolean): string | undefined {
  if (!numeric.test(text)) return undefined;
  const value = Number(text);
  if (!Number.isFinite(value) || (integral && !Number.isInteger(value))) return undefined;
  if (/^[+-]?\d+$/.test(text)) {
    const digits = text.replace(/^\+/, '').replace(/^(-?)0+(?=\d)/, '$1');
    return digits === '-0' ? '0' : digits;
  }
  return JSON.stringify(Number.isInteger(value) ? value + 0 : value);
}

/** An object or array in JSON or, where `literals` says so, as Python prints it. */
function containerToJson(text: string, literals: boolean): string | undefined {
  if (!/^[[{(]/.test(text)) return undefined;
  for (const json of [text, escapeControls(text)]) {
    const value = parseJson(json);
    if (typeof value === 'object' && value !== null) return json;
  }
  return literals ? pythonToJson(text) : undefined;
}

/** JSON whose strings hold line breaks as they are, which models write and JSON does not allow, with those escaped. */
const escapeControls = (text: string): string =>
  text.replaceAll(/"(?:[^"\\]|\\[^])*"/g, (string) =>
    // oxlint-disable-next-line no-control-regex -- control characters are what is looked for
    string.replaceAll(/[\u0000-\u001f]/g, (letter) => JSON.stringify(letter).slice(1, -1)),
  );

const literal =
  /\s+|'(?:[^'\\\n]|\\[^])*'|"(?:[^"\\\n]|\\[^])*"|True|False|None|true|false|null|[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[[\]{}():,]/iy;
const words: Record<string, string> = {
  True: 'true',
  False: 'false',
  None: 'null',
  true: 'true',
  false: 'false',
  null: 'null',
};

/** JSON of a Python literal of dicts, lists, tuples, strings, numbers, True, False and None; undefined where it is none. */
function pythonToJson(text: string): string | undefined {
  literal.lastIndex = 0;
  const out: string[] = [];
  while (literal.lastIndex < text.length) {
    const token = literal.exec(text)?.[0];
    if (token === undefined) return undefined;
    if (/^['"]/.test(token)) {
      const string = pythonString(token);
      if (string === undefined) return undefined;
      out.push(JSON.stringify(string));
    } else if (/^[+-]?[\d.]/.test(token)) {
      const number = numberToJson(token, false);
      if (number === undefined) return undefined;
      out.push(number);
    } else if (/^[a-z]/i.test(token)) {
      if (!(token in words)) return undefined;
      out.push(words[token]!);
    } else if (token === '(') out.push('[');
    else if (token === ')') {
      if (out.at(-1) === ',') out.pop();
      out.push(']');
    } else if (/^[\]}]$/.test(token)) {
      // Python allows a comma before the end.
      if (out.at(-1) === ',') out.pop();
      out.push(token);
    } else if (!/^\s/.test(token)) out.push(token);
  }
  const json = out.join('');
  return parseJson(json) === undefined ? undefined : json;
}

const escapes: Record<string, string> = {
  n: '\n',
  t: '\t',
  r: '\r',
  b: '\b',
  f: '\f',
  v: '\v',
  a: '\x07',
  '0': '\0',
  '\\': '\\',
  "'": "'",
  '"': '"',
  '\n': '',
};

function pythonString(token: string): string | undefined {
  let bad = false;
  const text = token
    .slice(1, -1)
    .replace(/\\(?:x([\da-f]{2})|u([\da-f]{4})|U([\da-f]{8})|([^]))/gi, (_all, ...groups: (string | undefined)[]) => {
      const [x, u, long, letter] = groups;
      const code = x ?? u ?? long;
      if (code !== undefined && Number.parseInt(code, 16) <= 0x10ffff)
        return String.fromCodePoint(Number.parseInt(code, 16));
      const known = letter === undefined ? undefined : escapes[letter];
      if (known === undefined) bad = letter === undefined || /[xuUN]/.test(letter);
      // As Python: an unknown escape is both of its characters.
      return known ?? `\\${letter}`;
    });
  return bad ? undefined : text;
}
