// Package layer keeps the layers of images: each one uncompressed, in a file that is named after its digest, and read
// as a list of entries, which is kept beside it.
//
// Ensure is the package's one verb. It returns a layer that was in the store already or had to be fetched. What is fetched
// is checked against both of its digests. What is there is not trusted by its name or its age, and yet not read for that:
// the list of entries has a checksum, and so has each file in it, which whoever reads the files compares. What the entries
// mean for an image (whiteouts, replacement, links) is package rootfs's business.
//
// A layer passes through memory once: reading, keeping, decompressing, writing, hashing and parsing are stages that run
// side by side on pieces of 1 MiB.
package layer
