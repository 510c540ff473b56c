// A plugin of TypeDoc: sorts what is exported into categories, by the file that it comes from. The operations of `mx`, and the methods
// of `MxArray`, go by the families of `src/node/ops`. Guides are named by their headings. Options of trainers get their defaults.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Comment, CommentTag, Converter, ReflectionKind } from 'typedoc';

const root = fileURLToPath(new URL('../..', import.meta.url));

const created = 'New arrays';
const activations = 'Activations';

/** The beginning of a path in the package, and the category of what is exported from there; the first that fits counts. */
const categories = [
  ['lib/errors.ts', 'Errors and interruption'],
  ['lib/interrupt.ts', 'Errors and interruption'],
  ['lib/array/random-state.ts', 'Functions'],
  ['lib/nn/activations', activations],
  ['lib/generated/nn.ts', activations],
  ['lib/nn/attention', 'Transformers'],
  ['lib/nn/transformer', 'Transformers'],
  ['lib/nn/positional', 'Transformers'],
  ['lib/nn/conv', 'Convolution and pooling'],
  ['lib/nn/pooling', 'Convolution and pooling'],
  ['lib/nn/norm', 'Normalization'],
  ['lib/nn/recurrent', 'Recurrent layers'],
  ['lib/nn/module', 'Modules'],
  ['lib/nn/value-and-grad', 'Modules'],
  ['lib/nn/checkpoint', 'Modules'],
  ['lib/nn/weights', 'Modules'],
  ['lib/nn/', 'Layers'],
  ['lib/optim/clip', 'Gradient clipping'],
  ['lib/optim/schedules', 'Schedules'],
  ['lib/cache/', 'Caches'],
  ['lib/optim/', 'Optimizers'],
  ['lib/array/create.ts', created],
  ['lib/array/index', 'Indexing'],
  ['lib/array/tidy.ts', 'Memory'],
  ['lib/memory.ts', 'Memory'],
  ['lib/array/', 'Arrays'],
  ['lib/mx.ts', 'Arrays'],
  ['lib/evaluate.ts', 'Arrays'],
  ['lib/transforms.ts', 'Transforms'],
  ['lib/tree.ts', 'Trees'],
  ['lib/device.ts', 'Devices'],
  ['lib/io.ts', 'Files'],
  ['lib/hub/', 'Models of the hub'],
  ['lib/chat/', 'Chat'],
  ['lib/quantization.ts', 'Quantised models'],
  ['lib/convert.ts', 'Quantised models'],
  ['lib/perplexity.ts', 'Quantised models'],
  ['lib/rl.ts', 'Parts of GRPO'],
  ['lib/generated/rl.ts', 'Parts of GRPO'],
  ['lib/generated/', 'Options and results'],
  ['trainers/rewards', 'Rewards'],
  ['trainers/loggers', 'Loggers'],
  ['trainers/', 'Trainers'],
  ['lib/', 'Models'],
];

/** What the addon's declarations give their own names to. */
const addonCategories = new Map([
  ['Dtype', 'Arrays'],
  ['MemoryStats', 'Memory'],
  ['BuildInfo', 'Devices'],
  ['ConvertReport', 'Quantised models'],
  ['LeftLayer', 'Quantised models'],
  ['QuantizeReport', 'Quantised models'],
  ['AdvantageResult', 'Parts of GRPO'],
  ['RewardStatistics', 'Parts of GRPO'],
]);

/** Families whose file has another name than the category. */
const families = {
  conv: 'Convolution',
  matrix: 'Matrix products',
  quantized: 'Quantization',
  slice: 'Indexing',
  create: created,
  index: 'Indexing',
  fast: 'Functions',
  fft: 'Functions',
  linalg: 'Functions',
  random: 'Functions',
  reduction: 'Reductions',
  sort: 'Sorting',
};

const camelCase = (name) => name.replace(/_$/, '').replace(/_+(\w)/g, (_, letter) => letter.toUpperCase());

/** `[function, family]` for every name that a file of `src/node/ops` declares; the family is the file's name. */
function* operations() {
  const folder = path.join(root, 'src/node/ops');
  for (const file of fs.readdirSync(folder, { recursive: true }).filter((name) => name.endsWith('.rs'))) {
    const text = fs.readFileSync(path.join(folder, file), 'utf8');
    if (path.basename(file) === 'mod.rs') continue;
    const stem = path.basename(file, '.rs');
    const family = families[stem] ?? stem[0].toUpperCase() + stem.slice(1);
    for (const [, name] of text.matchAll(/^pub fn (\w+)/gm)) yield [camelCase(name), family];
    // Tables of a macro have a name on a line.
    for (const [, name] of text.matchAll(/^ {4}(\w+)[^;{\n]*,$/gm)) yield [camelCase(name), family];
  }
}

/** Adds a category, where the author has not named one. */
function put(reflection, category) {
  const places = reflection.signatures ?? [reflection];
  for (const place of places) {
    place.comment ??= new Comment();
    if (place.comment.getTag('@category') === undefined && place.comment.getTag('@group') === undefined)
      place.comment.blockTags.push(new CommentTag('@category', [{ kind: 'text', text: category }]));
  }
}

/** Interfaces whose properties come from a schema of zod: by name, the module of the built package and the schema in it. */
const schemas = {
  GRPOConfig: ['dist/trainers/grpo/config.js', 'grpoConfigSchema'],
  SFTConfig: ['dist/trainers/sft/trainer.js', 'sftConfigSchema'],
};

/** Puts the schema's default in the place of code that says nothing; complains about options without a word on what they are. */
async function describeOptions(app, reflection) {
  const [file, name] = schemas[reflection.name];
  const { [name]: schema } = await import(path.join(root, file));
  for (const option of reflection.children) {
    if (!option.hasComment()) app.logger.warn(`${reflection.name}.${option.name} is not documented`);
    const standard = schema.shape[option.name].parse(undefined);
    delete option.defaultValue;
    if (standard === undefined) continue;
    const small = typeof standard === 'number' && standard > 0 && standard < 1e-3;
    const text =
      typeof standard === 'string' ? `'${standard}'` : small ? standard.toExponential() : JSON.stringify(standard);
    option.comment ??= new Comment();
    option.comment.blockTags.push(new CommentTag('@defaultValue', [{ kind: 'code', text: `\`${text}\`` }]));
  }
}

/** @param {import('typedoc').Application} app */
export function load(app) {
  const familyOf = new Map(operations());

  const categoryOf = (reflection, project) => {
    if (reflection.kind === ReflectionKind.Namespace && reflection.parent !== project) return 'Namespaces';
    // Functions of `mx` that are activations too.
    if (reflection.parent.name === 'nn' && reflection.isReference()) return activations;
    const target = reflection.isReference() ? reflection.getTargetReflectionDeep() : reflection;
    const symbol = project.getSymbolIdFromReflection(target);
    const file = symbol?.packagePath ?? '';
    if (file === 'index.d.cts') return addonCategories.get(reflection.name) ?? 'Models';
    if (file !== 'lib/generated/nn.ts' && file.startsWith('lib/generated/') && familyOf.has(reflection.name))
      return familyOf.get(reflection.name);
    const category = categories.find(([start]) => file.startsWith(start))?.[1];
    // Types for indices are few.
    return category === families.index && reflection.parent === project ? 'Arrays' : category;
  };

  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, (context) => {
    const { project } = context;
    for (const reflection of Object.values(project.reflections)) {
      const { parent, kind } = reflection;
      if (kind === ReflectionKind.Document) {
        const heading = /^# (.+)$/m.exec(reflection.content.map(({ text }) => text).join(''));
        if (heading !== null) reflection.name = heading[1];
        put(reflection, 'Guides');
        continue;
      }
      const exported = parent?.kindOf?.([ReflectionKind.Project, ReflectionKind.Module, ReflectionKind.Namespace]);
      const member = parent?.name === 'MxArray' && parent.kind === ReflectionKind.Class;
      if (!exported && !member) continue;
      const category = member
        ? reflection.flags.isStatic
          ? created
          : (familyOf.get(reflection.name) ?? 'Properties and values')
        : categoryOf(reflection, project);
      if (category !== undefined) put(reflection, category);
    }
  });

  // Before pages are made: the conversion itself does not wait for what is asynchronous.
  app.renderer.preRenderAsyncJobs.push(async ({ project }) => {
    const configs = Object.values(project.reflections).filter(
      ({ name, kind }) => kind === ReflectionKind.Interface && Object.hasOwn(schemas, name),
    );
    if (configs.length !== Object.keys(schemas).length) app.logger.warn('an interface of a schema is not there');
    for (const config of configs) await describeOptions(app, config);
  });
}
