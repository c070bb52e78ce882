// Package layer keeps the layers of images: each one uncompressed, in a file that is named after its digest, and read
// as a list of entries.
//
// Ensure is the package's one verb. It returns a layer whose bytes have just been hashed, whether they were in the
// store already or had to be fetched: an entry of the store is never trusted by its name or its age. Entries reads the
// tar alone. What the entries mean for an image (whiteouts, replacement, links) is package rootfs's business.
//
// A layer passes through memory once: reading, decompressing, writing, hashing and parsing are stages that run
// side by side on pieces of 1 MiB.
package layer
