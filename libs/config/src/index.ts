export { givenSettings, type GivenSettings, ownConfig } from './command-line.js';
export { ConfigModule } from './config.module.js';
export { type EnvFileLine, readEnvFile } from './env-file.js';
export { namesInGoRelay, nowNamed } from './go-relay.js';
export { parseRedisAddress, type RedisAddress } from './redis-address.js';
export {
  isToGenerateOfflineConfig,
  RELAY_SETTINGS,
  RelayConfig,
  relayRoles,
  type Role,
  ROLES,
  startedAs,
} from './relay-config.js';
export {
  baseUrl,
  headerText,
  isSecret,
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
export { TlsFiles, type TlsTexts } from './tls-files.js';
