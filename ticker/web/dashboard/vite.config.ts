import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const sdk = (file: string): string => fileURLToPath(new URL(`../sdk/src/${file}`, import.meta.url));

// The page as static files, which the server carries and serves at `/`.
export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic" } },
  resolve: { alias: [{ find: "@ticker/sdk/react", replacement: sdk("react.tsx") }, { find: "@ticker/sdk", replacement: sdk("index.ts") }] },
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy lets no data in that is not a file
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" }, // of what is built in, for whoever gets it with a wheel
  },
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8000", ws: true }, "/livez": "http://127.0.0.1:8000" } },
});
