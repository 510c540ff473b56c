#!/usr/bin/env node
// Writes the TypeScript functions and methods over the array operations from `index.d.cts`, which napi generates from the Rust
// declarations. A function whose first parameter is an array called `a` also becomes a method of `MxArray`.
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

/** Namespaces of the addon that become a file each. */
const namespaces = ['ops', 'random', 'linalg', 'fft', 'fast', 'nn', 'rl'];

/** What the files say of themselves that are namespaces of `mx` as they are. */
const about = {
  fast: "Fused kernels, as Python's `mlx.core.fast`: one pass over memory where separate operations take several.",
  fft: "Fourier transforms, as Python's `mlx.core.fft`. Forward transforms are not scaled, inverse ones by one over the number of elements, unless `norm` says otherwise.",
  linalg:
    "Linear algebra, as Python's `mlx.core.linalg`: of matrices in the last two axes. Decompositions run on the CPU, whatever the default device.",
};

/** Parameters whose dtype says nothing about a number beside them. */
const notLike = new Set(['condition', 'indices', 'key', 'mask', 'lhsIndices', 'rhsIndices']);

const reserved = new Set(['var', 'delete', 'in', 'new', 'default', 'eval']);

/** `[{ name, docs, params: [{ name, optional, type }], returns }]` for each namespace, and the interfaces by name. */
export function parseDeclarations(text) {
  const functions = new Map();
  const interfaces = new Map();
  let space = '';
  let docs = [];
  let open;
  for (const line of text.split('\n')) {
    const code = line.trim();
    const declared = /^export (?:declare )?(namespace|interface) (\w+)/.exec(code);
    const call = /^export (?:declare )?function (\w+)\((.*)\): (.+?);?$/.exec(code);
    if (code.startsWith('/**') || code.startsWith('*')) {
      if (code.startsWith('/**')) docs = [];
      docs.push(code.replace(/^\/?\*+\/?\s?/, '').replace(/\s*\*\/$/, ''));
      continue;
    }
    if (declared?.[1] === 'namespace') space = declared[2];
    else if (declared) interfaces.set(declared[2], (open = { fields: [], docs }));
    else if (open && code === '}') open = undefined;
    else if (code === '}') space = '';
    else if (open) {
      const field = /^(\w+)(\??): (.+?);?$/.exec(code);
      if (field) open.fields.push({ name: field[1], optional: field[2] === '?', type: field[3], docs });
    } else if (call) {
      const list = functions.get(space) ?? functions.set(space, []).get(space);
      list.push({ name: call[1], docs, params: parameters(call[2]), returns: call[3] });
    }
    docs = [];
  }
  return { functions, interfaces };
}

/** Splits at the commas outside brackets. */
function parameters(text) {
  const parts = [];
  let depth = 0;
  let part = '';
  for (const letter of text) {
    if ('<({['.includes(letter)) depth += 1;
    if ('>)}]'.includes(letter)) depth -= 1;
    if (letter === ',' && depth === 0) {
      parts.push(part);
      part = '';
    } else part += letter;
  }
  if (part.trim() !== '') parts.push(part);
  return parts.map((entry) => {
    const [, name, optional, type] = /^\s*(\w+)(\??):\s*(.+)$/.exec(entry);
    return { name, optional: optional === '?', type: type.trim() };
  });
}

/** Whether a type has a list of plain values in it. */
const hasList = (type) => /Array<(?!ArrayHandle|Indices)/.test(type);

/** Lists that the function only reads. */
function readOnlyLists(type) {
  const list = /Array<((?:[^<>]|<[^<>]*>)*)>/g;
  return type.replace(list, (_, inner) => {
    const element = readOnlyLists(inner);
    return `readonly ${/[ |]/.test(element) ? `(${element})` : element}[]`;
  });
}

/** The kind of a parameter, as `lib/array/failure.ts` knows them. */
function kindOf(type, optional, interfaces) {
  const inner = bare(type);
  const known = {
    ArrayHandle: 'array',
    Operand: 'array',
    Indices: 'array',
    RandomKey: 'array?',
    FlatAxis: 'number?',
    DtypeName: 'dtype',
    number: 'number',
    boolean: 'boolean',
    string: 'string',
    'Array<number>': 'numbers',
    'number | Array<number>': 'number|numbers',
    'number | Array<number | Array<number>>': 'lists',
    'Array<Array<number>>': 'lists of numbers',
    'Array<ArrayHandle>': 'arrays',
    'Array<Indices>': 'arrays',
  };
  const kind = interfaces.has(inner) ? 'object' : (known[inner] ?? 'any');
  return (optional || inner !== type) && !kind.endsWith('?') ? `${kind}?` : kind;
}

/** The parameters of a function and the fields of its options, with their kinds. */
function kindsOf(params, interfaces) {
  return params
    .flatMap((param) => {
      const fields = interfaces.get(bare(param.type))?.fields ?? [];
      const own = `${param.name}:${kindOf(param.type, param.optional || fields.length > 0, interfaces)}`;
      return [
        own,
        ...fields.map((field) => `${param.name}.${field.name}:${kindOf(field.type, field.optional, interfaces)}`),
      ];
    })
    .join(', ');
}

const isArray = (type) => ['ArrayHandle', 'Operand'].includes(bare(type));

const bare = (type) => type.replace(/ \| undefined \| null$/, '').replace(/ \| null$/, '');

/** How one type looks to the caller and how its values reach the addon. */
function conversion(type, name, likes, interfaces, where) {
  const inner = bare(type);
  const orNull = inner === type ? '' : ' | null';
  if (inner === 'ArrayHandle') {
    const arrays = [name, ...likes].join(', ');
    return { type: `ArrayLike${orNull}`, value: orNull ? `optionalOperand(${arrays})` : `operand(${arrays})` };
  }
  if (inner === 'Operand') {
    return { type: 'ArrayLike', value: likes.length > 0 ? `beside(${name}, ${likes[0]})` : `alone(${name})` };
  }
  if (inner === 'Indices') return { type: 'ArrayLike', value: `places(${name})` };
  if (inner === 'Array<Indices>') return { type: 'readonly ArrayLike[]', value: `placeLists(${name})` };
  if (inner === 'FlatAxis') return { type: 'number | null', value: name, optional: true };
  if (inner === 'NumberOrArray') {
    return {
      type: `ArrayLike${orNull}`,
      value: orNull ? `optionalNumberOrArray(${name})` : `numberOrArray(${name})`,
    };
  }
  if (inner.endsWith(' | ArrayHandle')) {
    // Words, or an array.
    const array = orNull ? `optionalOperand(${name})` : `operand(${name})`;
    return {
      type: `${inner.replace('ArrayHandle', 'ArrayLike')}${orNull}`,
      value: `typeof ${name} === 'string' ? ${name} : ${array}`,
    };
  }
  if (inner === 'Array<ArrayHandle>') {
    return { type: `readonly ArrayLike[]${orNull}`, value: orNull ? `optionalOperands(${name})` : `operands(${name})` };
  }
  if (inner === 'RandomKey') return { type: 'MxArray | null', value: `nextKey(${name})`, optional: true };
  if (inner === 'DtypeName') return { type: `Dtype${orNull}`, value: `text(${name})` };
  if (inner === 'string') return { type: `string${orNull}`, value: `text(${name})` };
  if (interfaces.has(inner)) {
    const { fields } = interfaces.get(inner);
    const keys = fields.map((field) => `'${field.name}'`).join(', ');
    const changed = fields
      .map((field) => ({ field, made: fieldConversion(field, `given.${field.name}`, interfaces) }))
      .filter(({ field, made }) => made.value !== `given.${field.name}`);
    const optional = fields.every((field) => field.optional || field.type === 'RandomKey');
    const converted = changed.map(({ field, made }) => `, ${field.name}: ${made.value}`).join('');
    return {
      type: `${inner}${orNull}`,
      value: `converted`,
      optional,
      before: `const given = known(${name}, [${keys}], '${where}()');\n    const converted = { ...given${converted} };`,
    };
  }
  if (hasList(type)) {
    return { type: readOnlyLists(type.replace(' | undefined | null', ' | null')), value: `list(${name}) as ${type}` };
  }
  return { type: type.replace(' | undefined | null', ' | null'), value: name };
}

/** An optional field is one that may be undefined. */
function fieldConversion(field, name, interfaces) {
  const type =
    field.optional && bare(field.type) === field.type && field.type !== 'RandomKey'
      ? `${field.type} | undefined | null`
      : field.type;
  const made = conversion(type, name, [], interfaces, '');
  const value = made.value.replace(/ \| undefined \| null$/, ' | undefined');
  return { ...made, value, type: made.type.replace(/ \| null$/, ''), optional: made.optional === true };
}

function documentation(docs, indent = '') {
  const lines = docs.filter((line, i) => line !== '' || (i > 0 && i < docs.length - 1));
  if (lines.length === 0) return '';
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join('\n')}\n${indent} */\n`;
}

/** A last parameter `factors` takes any number of arrays. */
const isRest = (param) => param.name === 'factors';

const signature = (params) =>
  params
    .map((param) => `${isRest(param) ? '...' : ''}${param.name}${param.optional ? '?' : ''}: ${param.type}`)
    .join(', ');

/** A parameter may be left out where it may be null and all after it may be left out. */
function withOptional(params) {
  let open = true;
  for (const param of params.toReversed()) {
    param.optional = open && (param.optional || param.nativeType.endsWith(' | undefined | null'));
    open = param.optional;
  }
  return params;
}

function resultOf(type, interfaces) {
  if (type === 'ArrayHandle') return { type: 'MxArray', wrap: (call) => `wrap(${call})` };
  if (type === 'Array<ArrayHandle>') return { type: 'MxArray[]', wrap: (call) => `wrapAll(${call})` };
  if (/^\[ArrayHandle(, ArrayHandle)*\]$/.test(type)) {
    const tuple = type.replaceAll('ArrayHandle', 'MxArray');
    return { type: tuple, wrap: (call) => `wrapAll(${call}) as ${tuple}` };
  }
  const fields = interfaces.get(type)?.fields.filter((field) => /ArrayHandle/.test(field.type));
  if (fields?.length > 0) {
    const parts = fields.map((field) => {
      const inner = resultOf(bare(field.type), interfaces).wrap(`result.${field.name}`);
      return field.optional
        ? `${field.name}: result.${field.name} == null ? undefined : ${inner}`
        : `${field.name}: ${inner}`;
    });
    return { type, wrap: (call) => `wrapFields(${call}, (result) => ({ ...result, ${parts.join(', ')} }))` };
  }
  return { type, wrap: (call) => call };
}

function emit(space, list, interfaces) {
  const used = new Set();
  const functions = [];
  const declarations = [];
  const methods = [];
  for (const { name: declared, docs, params, returns } of list) {
    // Reserved words are declared with an underscore.
    const name = declared.replace(/_$/, '');
    const arrays = params.filter((param) => isArray(param.type) && !notLike.has(param.name));
    const each = params.map((param) => {
      const likes = notLike.has(param.name)
        ? []
        : arrays
            .filter((other) => other !== param)
            .map((other) => other.name)
            .slice(0, 2);
      const made = conversion(param.type, param.name, likes, interfaces, `${space === 'ops' ? 'mx' : space}.${name}`);
      if (interfaces.has(bare(param.type))) used.add(bare(param.type));
      return { ...param, ...made, nativeType: param.type, optional: param.optional || made.optional === true };
    });
    const converted = withOptional(each);
    const result = resultOf(returns, interfaces);
    if (interfaces.has(returns)) used.add(returns);
    const before = converted
      .map((param) => param.before)
      .filter(Boolean)
      .map((line) => `    ${line}\n`)
      .join('');
    const call = `native.${declared}(${converted.map((param) => param.value).join(', ')})`;
    const own = reserved.has(name) ? `${name}_` : name;
    const shown = `${space === 'ops' ? 'mx' : space}.${name}`;
    const failed = `failure(error, '${shown}', '${kindsOf(params, interfaces)}', [${params.map((param) => param.name).join(', ')}])`;
    functions.push(
      `${documentation(docs)}${own === name ? 'export ' : ''}function ${own}(${signature(converted)}): ${result.type} {\n` +
        `  try {\n${before}    return ${result.wrap(call)};\n  } catch (error) {\n    throw ${failed};\n  }\n}\n` +
        (own === name ? '' : `export { ${own} as ${name} };\n`),
    );
    if (params[0]?.name === 'a' && isArray(params[0].type)) {
      const rest = converted.slice(1);
      declarations.push(`${documentation(docs, '    ')}    ${name}(${signature(rest)}): ${result.type};\n`);
      methods.push(
        `  ${name}(${signature(rest)}) {\n    return ${own}(${['this', ...rest.map((param) => (isRest(param) ? `...${param.name}` : param.name))].join(', ')});\n  },\n`,
      );
    }
  }
  const types = [...used].map((type) => {
    const { fields, docs } = interfaces.get(type);
    const lines = fields.map((field) => {
      const made = returnsType(list, type)
        ? { type: resultOf(bare(field.type), interfaces).type }
        : fieldConversion(field, '', interfaces);
      const optional = field.optional || made.optional === true;
      return `${documentation(field.docs, '  ')}  ${field.name}${optional ? '?' : ''}: ${made.type};\n`;
    });
    return `${documentation(docs)}export interface ${type} {\n${lines.join('')}}\n`;
  });
  const body = [...types, ...functions].join('\n');
  const merged =
    methods.length === 0
      ? ''
      : `\ndeclare module '../array/core.js' {\n  interface MxArray {\n${declarations.join('\n')}  }\n}\n\nmethods({\n${methods.join('')}});\n`;
  const all = body + merged;
  const from = (file, names, type = false) => {
    const wanted = names.filter((name) => new RegExp(`\\b${name}\\b`).test(all));
    return wanted.length === 0 ? '' : `import ${type ? 'type ' : ''}{ ${wanted.join(', ')} } from '${file}';\n`;
  };
  return (
    (about[space] === undefined ? '' : `/**\n * ${about[space]}\n *\n * @module ${space}\n */\n`) +
    `// Generated by scripts/array-api.mjs from the Rust declarations. Do not edit.\n` +
    from('../array/convert.js', [
      'alone',
      'beside',
      'known',
      'methods',
      'numberOrArray',
      'operand',
      'operands',
      'optionalNumberOrArray',
      'optionalOperand',
      'optionalOperands',
      'placeLists',
      'places',
      'wrapFields',
    ]) +
    from('../array/core.js', ['wrap', 'wrapAll']) +
    from('../array/core.js', ['ArrayLike', 'Dtype', 'MxArray'], true) +
    from('../array/failure.js', ['failure']) +
    from('../array/guards.js', ['list', 'text']) +
    from('../array/random-state.js', ['nextKey']) +
    `import { native as addon } from '../native.js';\n\n` +
    `const native = addon().${space};\n\n${all}`
  );
}

const returnsType = (list, type) => list.some((entry) => bare(entry.returns) === type);

/** The generated files by path. */
export function arrayApi(declarations) {
  const { functions, interfaces } = parseDeclarations(declarations);
  return new Map(
    namespaces
      .filter((space) => functions.has(space))
      .map((space) => [`lib/generated/${space}.ts`, emit(space, functions.get(space), interfaces)]),
  );
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
  fs.mkdirSync(path.join(root, 'lib/generated'), { recursive: true });
  for (const [file, text] of arrayApi(fs.readFileSync(path.join(root, 'index.d.cts'), 'utf8'))) {
    const full = path.join(root, file);
    if (!fs.existsSync(full) || fs.readFileSync(full, 'utf8') !== text) fs.writeFileSync(full, text);
  }
}
