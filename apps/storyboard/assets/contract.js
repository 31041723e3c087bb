// What Python sends, as `contract.py` has it; a test compares the two.

const VERSION = 1;

/** @typedef {Object} Curve
 * @property {number[]} x
 * @property {number[]} y
 * @property {number[]} se */

/** @typedef {Object} Claim
 * @property {string} name
 * @property {string} statement
 * @property {number|string} predicted
 * @property {number|string} measured
 * @property {number|string} control
 * @property {string} verdict */

/** @typedef {Object} DiagonalModel
 * @property {string} name
 * @property {number} dim
 * @property {number} n_ctx
 * @property {number[][]} A
 * @property {number[][]} B
 * @property {number[][]} P */

/** @typedef {Object} Pairs
 * @property {DiagonalModel} model
 * @property {number} scale
 * @property {number[][]} C
 * @property {number[][]} M
 * @property {number[][]} P
 * @property {number} cut_last
 * @property {number} cut_previous
 * @property {number[]} cut_head
 * @property {Object<string, Claim>} claims */

/** @typedef {Object} Swap
 * @property {DiagonalModel} model
 * @property {number} score
 * @property {number} controls
 * @property {number} n */

/** @typedef {Object} Watched
 * @property {string} name
 * @property {number} dim
 * @property {number} n_layers
 * @property {number[]} W
 * @property {number[][]} W_eigenvalues
 * @property {number[][]} estimate
 * @property {number[][][]} eigenvalues
 * @property {number[]} error
 * @property {number[][]} step_estimate
 * @property {number[][]} least_squares_estimate */

/** @typedef {Object} Experiment
 * @property {string} key
 * @property {string} model
 * @property {number[]} x_range
 * @property {number} y_max
 * @property {number} ask
 * @property {number} neutral
 * @property {Curve} theory
 * @property {Curve} measured
 * @property {number|null} limit
 * @property {number} n */

/** @typedef {Object} Depth
 * @property {string} name
 * @property {number} n_layers
 * @property {Curve} curve
 * @property {number} steps
 * @property {number[]} interval
 * @property {Object<string, number>} verdicts
 * @property {Claim[]} not_held */

/** @typedef {Object} Payload
 * @property {number} version
 * @property {Object<string, string>} sources
 * @property {Pairs} pairs
 * @property {Swap} swap
 * @property {number} memorised
 * @property {Watched} watched
 * @property {Curve} least_squares
 * @property {Curve} one_step
 * @property {Experiment[]} experiments
 * @property {Depth[]} depth */
