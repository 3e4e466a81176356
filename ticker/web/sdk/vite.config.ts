import { defineConfig } from "vite";

// The SDK as one file, for `<script type="module">`; packages are built by tsc, module by module.
export default defineConfig({
  build: {
    lib: { entry: "src/index.ts", formats: ["es"], fileName: () => "ticker.js" },
    emptyOutDir: false,
    minify: true,
    target: "es2022",
  },
});
