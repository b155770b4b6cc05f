/**
 * An object without inherited keys, for attributes by name. It is quicker to make, fill and read than one of
 * `Object.create(null)`, which the engine keeps as a hash table.
 */
export const AttributeMap = function AttributeMap() {} as unknown as new () => Record<string, string>
AttributeMap.prototype = Object.create(null)
