// Package admission writes the defaults that an API server writes and checks what the mesh reads, for kinds without a
// schema. It also returns what is in force in place of an object that cannot be read, if its absence would let somebody
// in.
//
// Both sources use it. An API server has checked an object of a core kind before it is read, but not what the mesh adds:
// the labels of the mesh, and the fields of AuthorizationPolicy and AddressPool, whose CRDs may be of another version.
package admission
