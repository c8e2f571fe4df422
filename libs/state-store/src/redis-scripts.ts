/** What a position's key holds; nil for none, and for what is none. */
const POSITION_AT = `
local function positionAt(key)
  local readable, position = pcall(cjson.decode, redis.pcall('GET', key))
  if readable and type(position) == 'table' and position.epoch and position.sequence then return position end
end`;

/**
 * What Redis does in one step. KEYS of each are of one environment, so that they are of one slot; the first is its
 * position, unless said.
 */
export const SCRIPTS = {
  /**
   * Writes what a change touches. KEYS: position, those to set, those to delete. ARGV: epoch, sequence before and after,
   * the position's text, how many to set, their values.
   */
  applyChange: {
    lua: `${POSITION_AT}
local position = positionAt(KEYS[1])
if position then
  if position.epoch ~= ARGV[1] then return 'unexpected' end
  if position.sequence == tonumber(ARGV[3]) then return 'held' end
  if position.sequence > tonumber(ARGV[3]) then return 'newer' end
  if position.sequence ~= tonumber(ARGV[2]) then return 'unexpected' end
elseif tonumber(ARGV[2]) ~= 0 then
  return 'unexpected'
end
local sets = tonumber(ARGV[5])
for i = 1, sets do redis.call('SET', KEYS[1 + i], ARGV[5 + i]) end
for i = 2 + sets, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[4])
return 'written'`,
  },

  /**
   * Puts shadow keys in place of live ones. KEYS: position, the shadows, as many live ones, those to delete. ARGV: epoch
   * and sequence that must be stored ('' and 0 for none), the position's text, how many shadows. Returns 1, or 0 if
   * another position is stored.
   */
  switchOver: {
    lua: `${POSITION_AT}
local position = positionAt(KEYS[1]) or { epoch = '', sequence = 0 }
local count = tonumber(ARGV[4])
if position.epoch ~= ARGV[1] or position.sequence ~= tonumber(ARGV[2]) then
  for i = 2, 1 + count do redis.call('DEL', KEYS[i]) end
  return 0
end
for i = 2, 1 + count do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return redis.error_reply('SHADOW what was written beside the live keys is gone')
  end
end
for i = 2, 1 + count do
  redis.call('RENAME', KEYS[i], KEYS[i + count])
  redis.call('PERSIST', KEYS[i + count])
end
for i = 2 + 2 * count, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[3])
return 1`,
  },

  /**
   * Deletes keys of an environment, unless it moved on. KEYS: position, those to delete. ARGV: epoch, sequence. Returns
   * how many there were, or -1 if a newer position of the epoch is stored.
   */
  removeKeys: {
    lua: `${POSITION_AT}
local position = positionAt(KEYS[1])
if position and position.epoch == ARGV[1] and position.sequence > tonumber(ARGV[2]) then return -1 end
local removed = 0
for i = 2, #KEYS do removed = removed + redis.call('DEL', KEYS[i]) end
return removed`,
  },

  /** The SHA-1 of what each of KEYS holds, '' for nothing: so that comparing moves no state. */
  digestsOf: {
    lua: `
local digests = {}
for i = 1, #KEYS do
  local value = redis.pcall('GET', KEYS[i])
  digests[i] = type(value) == 'string' and redis.sha1hex(value) or ''
end
return digests`,
  },

  /** Deletes KEYS[1] if it holds ARGV[1]. Returns how many keys it deleted. */
  removeIfEqual: {
    lua: `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`,
  },

  /**
   * KEYS: progress. ARGV: writer, epoch, sequence, the progress's text. Returns 0 if the writer is another, or none.
   */
  advanceProgress: {
    lua: `
local stored = redis.call('GET', KEYS[1])
if not stored then return 0 end
local progress = cjson.decode(stored)
if progress.writer ~= ARGV[1] then return 0 end
local position = progress.position
if position.epoch ~= ARGV[2] or position.sequence <= tonumber(ARGV[3]) then
  redis.call('SET', KEYS[1], ARGV[4])
end
return 1`,
  },
} as const;
