export { ConfigModule } from './config.module.js';
export { RELAY_SETTINGS, RelayConfig } from './relay-config.js';
export {
  baseUrl,
  headerText,
  logFormat,
  logLevel,
  port,
  readSettings,
  type SettingNote,
  SettingsError,
  settingsTable,
  wholeNumber,
  yesOrNo,
} from './settings.js';
