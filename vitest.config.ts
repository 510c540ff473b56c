import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['__test__/**/*.test.ts'],
    // A model of gigabytes that no clone has: docs/real-model.md.
    exclude: process.env['MLX_NODE_REAL_MODEL']
      ? configDefaults.exclude
      : [...configDefaults.exclude, '__test__/real/**'],
    // Addons crash in worker threads that vitest tears down; a process per file is the supported way.
    pool: 'forks',
    // MLX uses all cores by itself.
    maxWorkers: 1,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
