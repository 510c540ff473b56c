import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { globTest, indexShards, isRepoId, isSafeFileName, modelFiles } from '../../lib/hub/repo.ts';
import { retryAfter } from '../../lib/hub/errors.ts';
import { hubSettings } from '../../lib/hub/settings.ts';
import { tempDir } from '../helpers/temp.ts';

describe('the settings of the hub', () => {
  it.each([
    [{}, '/home/a/.cache/huggingface/hub'],
    [{ XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
    [{ XDG_CACHE_HOME: '/x', HF_HOME: '/h' }, '/h/hub'],
    [{ HF_HOME: '~/hf' }, '/home/a/hf/hub'],
    [{ HF_HOME: '$DISK/hf', DISK: '/d' }, '/d/hf/hub'],
    [{ HF_HOME: '/h', HUGGINGFACE_HUB_CACHE: '/old' }, '/old'],
    [{ HUGGINGFACE_HUB_CACHE: '/old', HF_HUB_CACHE: '${HOME}/new' }, '/home/a/new'],
    [{ HF_HUB_CACHE: '' }, '/home/a/.cache/huggingface/hub'],
  ])('%j puts the cache at %s, as huggingface_hub does', (env, cacheDir) => {
    expect(hubSettings({}, { HOME: '/home/a', ...env }).cacheDir).toBe(cacheDir);
  });

  it('takes the token from the option, HF_TOKEN, or the file of hf auth login', () => {
    const home = tempDir();
    mkdirSync(join(home, 'huggingface'));
    writeFileSync(join(home, 'huggingface', 'token'), 'hf_stored\n');
    writeFileSync(join(home, 'other'), ' hf_other ');
    const env = { HOME: '/nobody', XDG_CACHE_HOME: home };
    expect(hubSettings({}, env).token).toBe('hf_stored');
    expect(hubSettings({}, { ...env, HF_TOKEN_PATH: join(home, 'other') }).token).toBe('hf_other');
    expect(hubSettings({}, { ...env, HF_TOKEN: 'hf_direct\n' }).token).toBe('hf_direct');
    expect(hubSettings({ token: 'hf_option' }, { ...env, HF_TOKEN: 'hf_direct' }).token).toBe('hf_option');
    expect(hubSettings({ token: false }, { ...env, HF_TOKEN: 'hf_direct' }).token).toBeUndefined();
    expect(hubSettings({}, { ...env, HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' }).token).toBeUndefined();
    expect(hubSettings({}, { HOME: '/nobody' }).token).toBeUndefined();
  });

  it.each([
    [{}, false],
    [{ HF_HUB_OFFLINE: '1' }, true],
    [{ HF_HUB_OFFLINE: 'ON' }, true],
    [{ TRANSFORMERS_OFFLINE: 'true' }, true],
    [{ HF_HUB_OFFLINE: '0', TRANSFORMERS_OFFLINE: '1' }, false],
  ])('%j: offline is %s', (env, offline) => {
    expect(hubSettings({}, env).offline).toBe(offline);
    expect(hubSettings({ localFilesOnly: true }, env).offline).toBe(true);
  });

  it('takes endpoint and times from the environment', () => {
    expect(hubSettings({}, {}).endpoint).toBe('https://huggingface.co');
    const env = { HF_ENDPOINT: 'https://mirror/', HF_HUB_ETAG_TIMEOUT: '3', HF_HUB_DOWNLOAD_TIMEOUT: 'soon' };
    const settings = hubSettings({}, env);
    expect(settings).toMatchObject({ endpoint: 'https://mirror', metadataTimeout: 3000, downloadTimeout: 10_000 });
  });
});

describe('names on the hub', () => {
  it.each(['Qwen/Qwen3-0.6B', 'mlx-community/Qwen3-0.6B-4bit', 'a/b', 'x/_y', 'org/a.b_c'])('%s is one', (id) => {
    expect(isRepoId(id)).toBe(true);
  });

  it.each([
    'Qwen3',
    './Qwen/x',
    '/a/b',
    'a/b/c',
    '../a',
    'a/..',
    '~/m',
    'a//b',
    'a/',
    'a/b.git',
    'a--b/c',
    'a/b c',
    `a/${'b'.repeat(96)}`,
  ])('%s is none', (id) => {
    expect(isRepoId(id)).toBe(false);
  });

  it.each(['../x', '/etc/passwd', 'a/../../b', 'a\\b', 'C:x', '', 'a//b', './a', 'a/.', 'a\0'])(
    'a file named %j would leave its folder',
    (name) => {
      expect(isSafeFileName(name)).toBe(false);
    },
  );

  it('picks what a model needs', () => {
    const all = [
      'README.md',
      'config.json',
      'merges.txt',
      'model.safetensors',
      'model.fp16.safetensors',
      'sub/x.safetensors',
      'x.bin',
    ];
    expect(modelFiles(all, undefined)).toEqual(['config.json', 'merges.txt', 'model.safetensors']);
    expect(modelFiles(['a.safetensors', 'b/c.safetensors'], undefined)).toEqual(['a.safetensors']);
    const sharded = ['m-1.safetensors', 'm-2.safetensors', 'model.safetensors', 'model.safetensors.index.json'];
    expect(modelFiles(sharded, ['m-1.safetensors', 'm-2.safetensors'])).toEqual(
      sharded.filter((name) => name !== 'model.safetensors'),
    );
  });

  it('reads an index, and refuses one that names files elsewhere', () => {
    expect(indexShards('{"weight_map":{"a":"x","b":"y","c":"x"}}', 'm')).toEqual(['x', 'y']);
    for (const text of ['', '{}', '{"weight_map":{}}', '{"weight_map":{"a":1}}', '{"weight_map":{"a":"../x"}}'])
      expect(() => indexShards(text, 'm')).toThrow(/^m: model\.safetensors\.index\.json/);
  });

  it('matches patterns as fnmatch does', () => {
    const matches = (pattern: string, name: string): boolean => globTest(pattern)(name);
    expect(matches('*.json', 'a/b.json')).toBe(true);
    expect(matches('*.json', 'bxjson')).toBe(false);
    expect(matches('onnx/', 'onnx/a/b')).toBe(true);
    expect(matches('a?.txt', 'ab.txt')).toBe(true);
    expect(matches('a?.txt', 'abc.txt')).toBe(false);
  });

  it('reads Retry-After in seconds and as a date', () => {
    expect(retryAfter('3')).toBe(3000);
    expect(retryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 4000)).toBe(6000);
    expect(retryAfter('soon')).toBeUndefined();
    expect(retryAfter(null)).toBeUndefined();
  });
});
