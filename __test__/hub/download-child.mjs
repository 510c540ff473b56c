// Downloads a model in a process of its own: node download-child.mjs <package> <id>; prints its folder, or its error.
const [, , entry, id] = process.argv;
const { snapshotDownload } = await import(entry);
try {
  process.stdout.write(await snapshotDownload(id, { retryDelay: 10, onProgress: () => process.stderr.write('.') }));
} catch (error) {
  process.stdout.write(`${error.code}: ${error.message}`);
  process.exitCode = 1;
}
