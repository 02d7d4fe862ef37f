package observe

import (
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a question and what it was answered.
type DNS struct {
	// Name is asked for, without the dot at its end; "." is the root. It is the client's choice: bytes that are not printable
	// ASCII are written as \DDD (RFC 1035, 5.1). "" if the message cannot be read.
	Name string `json:"name"`
	Type string `json:"type"` // A, AAAA, ...; TYPE65535 of those without a name here
	// Code is the answer's: NOERROR, NXDOMAIN, ...; RCODE11 of those without a name here; "" without an answer.
	Code    string `json:"code,omitempty"`
	Answers int    `json:"answers"` // resource records in the answer section
}

// dnsCodes are the response codes by their number (RFC 1035, 4.1.1; RFC 2136, 2.2).
var dnsCodes = []string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE"}

func dnsCode(n int) string {
	if n < len(dnsCodes) {
		return dnsCodes[n]
	}
	return fmt.Sprintf("RCODE%d", n)
}

// CodeNumber is the number of Code; false without an answer.
func (d *DNS) CodeNumber() (int, bool) {
	for n := range 16 {
		if dnsCode(n) == d.Code {
			return n, true
		}
	}
	return 0, false
}

// SetCode sets Code by its number.
func (d *DNS) SetCode(n int) { d.Code = dnsCode(n) }

// dnsTypes are the types that dnsmessage has no name for, or another one (IANA, DNS parameters).
var dnsTypes = map[dnsmessage.Type]string{
	35: "NAPTR", 39: "DNAME", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 255: "ANY", 257: "CAA",
}

func dnsType(t dnsmessage.Type) string {
	if name, ok := dnsTypes[t]; ok {
		return name
	}
	if name, ok := strings.CutPrefix(t.String(), "Type"); ok {
		return name
	}
	return fmt.Sprintf("TYPE%d", uint16(t))
}

// dnsHeader is the size of a message's header (RFC 1035, 4.1.1).
const dnsHeader = 12

// readDNS reads a message, of which the header and the question are enough.
func readDNS(data []byte) (h dnsmessage.Header, d DNS, err error) {
	var p dnsmessage.Parser
	if h, err = p.Start(data); err != nil {
		return h, d, fmt.Errorf("DNS message of %d bytes: %w", len(data), err)
	}
	if h.Response {
		d.Code = dnsCode(int(h.RCode))
		d.Answers = int(data[6])<<8 | int(data[7])
	}
	if q, err := p.Question(); err == nil {
		d.Name, d.Type = dnsName(q.Name.String()), dnsType(q.Type)
	}
	return h, d, nil
}

func dnsName(name string) string {
	var b strings.Builder
	for _, c := range []byte(strings.TrimSuffix(name, ".")) {
		if c > ' ' && c <= '~' && c != '\\' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "\\%03d", c)
		}
	}
	if b.Len() == 0 {
		return "."
	}
	return b.String()
}
