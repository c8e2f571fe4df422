export { ConfigModule } from './config.module.js';
export { parseRedisAddress, type RedisAddress } from './redis-address.js';
export { RELAY_SETTINGS, RelayConfig, relayRoles, type Role, ROLES } from './relay-config.js';
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
