// Bundles hyparquet; run in a folder where `npm install hyparquet@1.31.5 esbuild@0.28.2` has run.
import { readFileSync } from "node:fs";
import { build } from "esbuild";

const entry = [
  'export { parquetMetadata } from "./node_modules/hyparquet/src/metadata.js";',
  'export { parquetReadColumn } from "./node_modules/hyparquet/src/read.js";',
].join("\n");
// A few hostile bytes could otherwise claim pages, lists, runs and numbers without end.
const bounds = {
  "column.js": [
    ["  let skipped = 0\n", "  let skipped = 0\n  let unpacked = 0\n"],
    ["    const header = parquetHeader(reader)\n", `    const header = parquetHeader(reader)
    const page = header.type === 'DICTIONARY_PAGE' ? header.dictionary_page_header : header.data_page_header
    const values = header.type === 'DICTIONARY_PAGE' ? page?.num_values : rowCount + page?.num_values
    if (
      !['PLAIN', 'RLE', 'RLE_DICTIONARY', 'PLAIN_DICTIONARY'].includes(page?.encoding) || !(page.num_values >= 0) ||
      !(values <= selectEnd) || !(header.uncompressed_page_size >= 0) || !(header.compressed_page_size >= 0) ||
      !((unpacked += header.uncompressed_page_size) <= 2 ** 27)
    ) throw new Error('parquet page out of bounds')
`],
  ],
  "encoding.js": [["const count = header >>> 1\n", "const count = Math.min(header >>> 1, output.length - seen)\n"]],
  "thrift.js": [
    ["    const boolType", "    if (listSize > reader.view.byteLength - reader.offset) throw new Error('thrift list exceeds the file')\n    const boolType"],
    ["    shift += 7n", "    if ((shift += 7n) > 63n) throw new Error('thrift number exceeds 64 bits')"],
  ],
};
const patch = {
  name: "bounds",
  setup(builder) {
    builder.onLoad({ filter: /hyparquet.src.(column|encoding|thrift)\.js$/ }, ({ path }) => {
      let contents = readFileSync(path, "utf-8");
      for (const [from, to] of bounds[path.split(/[\\/]/).pop()]) {
        if (contents.split(from).length !== 2) throw new Error(`${path}: ${from}`);
        contents = contents.replace(from, to);
      }
      return { contents };
    });
  },
};
await build({
  stdin: { contents: entry, resolveDir: "." },
  bundle: true, format: "iife", globalName: "hyparquet", minify: true, target: "es2022",
  legalComments: "none", outfile: "hyparquet.min.js", plugins: [patch],
});
