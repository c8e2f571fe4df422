export { type BundleEnvironment, BundleError, type BundleOrigin, bundled, type Manifest } from './bundle.js';
export {
  type Bundle,
  expectRoom,
  type Glance,
  glanceAt,
  readBundle,
  writeBundle,
} from './bundle-directory.js';
export { generateBundle } from './generate-bundle.js';
