/**
 * A shorter value is removed by its name only, and not searched for elsewhere: it may equal an id, a name or any
 * word, and an attacker can guess it anyway. Bots have tokens such as 777, and `?key=1` must not empty every field
 * that contains 1. Bitrix24's own tokens have 32 characters or more, and `ROBOT_PATH` must end in 16.
 */
export const minSecretLength = 16
