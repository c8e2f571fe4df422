export { ConfigModule } from './config.module.js';
export { RelayConfig } from './relay-config.js';
export {
  baseUrl,
  logFormat,
  logLevel,
  port,
  readSettings,
  type SettingNote,
  SettingsError,
  wholeNumber,
  yesOrNo,
} from './settings.js';
