package policy

import (
	"bytes"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/whygate/whygate/reason"
)

// geoFixture makes a database of networks and records.
func geoFixture(t testing.TB, o mmdbwriter.Options, records map[string]mmdbtype.DataType) []byte {
	t.Helper()
	o.IncludeReservedNetworks = true // those for documentation are among them
	if o.DatabaseType == "" {
		o.DatabaseType = "Test-Country"
	}
	tree, err := mmdbwriter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for n, r := range records {
		_, network, err := net.ParseCIDR(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, r); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// maxmindRecord is a record as GeoLite2-City has it.
func maxmindRecord(code string) mmdbtype.Map {
	names := mmdbtype.Map{"de": mmdbtype.String("Name " + code), "en": mmdbtype.String("Name " + code), "fr": mmdbtype.String("Nom " + code)}
	return mmdbtype.Map{
		"city":      mmdbtype.Map{"geoname_id": mmdbtype.Uint32(1), "names": names},
		"continent": mmdbtype.Map{"code": mmdbtype.String("EU"), "names": names},
		"country":   mmdbtype.Map{"geoname_id": mmdbtype.Uint32(2), "iso_code": mmdbtype.String(code), "names": names},
		"location":  mmdbtype.Map{"latitude": mmdbtype.Float64(1), "longitude": mmdbtype.Float64(2)},
	}
}

func TestGeo(t *testing.T) {
	s := newShelf(t)
	s.write("country.mmdb", string(geoFixture(t, mmdbwriter.Options{}, map[string]mmdbtype.DataType{
		"203.0.113.0/24": maxmindRecord("DE"), "198.51.100.0/24": maxmindRecord("FR"), "2001:db8::/48": maxmindRecord("DE"), "10.0.0.0/8": maxmindRecord("DE"),
		"192.0.2.0/24": mmdbtype.Map{"continent": mmdbtype.Map{"code": mmdbtype.String("EU")}},
	})))
	s.write("asn.mmdb", string(geoFixture(t, mmdbwriter.Options{DatabaseType: "Test-ASN"}, map[string]mmdbtype.DataType{
		"198.51.100.0/25": mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(64496), "autonomous_system_organization": mmdbtype.String("Example")},
		"203.0.113.64/26": mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(64511)},
	})))
	var c Check
	ask := func(addr string) reason.Verdict { return c.Check(s.from(addr, "GET /")) }

	c = s.check("geo", `{database: [country.mmdb], allow: [de]}`)
	wants(t, ask("203.0.113.7"), "")
	wants(t, ask("2001:db8::7"), "")
	wants(t, ask("198.51.100.7"), "geo.not-allowed", "198.51.100.7 is in FR", "allowed are DE", "by Test-Country of 20", `ask team "orders" (orders@shop.test) to allow FR`)
	wants(t, ask("192.0.2.1"), "geo.unknown", "the country of 192.0.2.1 is not known: no database knows it", "whose country is known, in DE")
	wants(t, ask("8.8.8.8"), "geo.unknown")
	for addr, why := range map[string]string{"10.1.2.3": "a private network", "127.0.0.1": "this machine itself", "::1": "this machine itself", "fe80::1": "no address of the internet", "100.64.1.1": "RFC 6598", "fd00::1": "a private network"} {
		wants(t, ask(addr), "geo.unknown", why)
	}
	v := ask("198.51.100.7")
	if hops, ok := v.Facts.Find("hops", reason.ToCaller); !ok || len(hops.Value.([]reason.Hop)) != 1 {
		t.Errorf("no table of hops: %v", v.Facts)
	}
	if f, ok := v.Facts.Find("allowed", reason.ToOwner); !ok || f.From == nil || f.From.Field != "allow" {
		t.Errorf("where it is written: %+v", f)
	}
	if _, ok := v.Facts.Find("allowed", reason.ToCaller); ok {
		t.Error("callers are told the rule")
	}

	c = s.check("geo", `{database: [country.mmdb], deny: [FR], unknown: allow}`)
	wants(t, ask("203.0.113.7"), "")
	wants(t, ask("127.0.0.1"), "")
	wants(t, ask("192.0.2.1"), "")
	wants(t, ask("198.51.100.7"), "geo.denied", "calls from FR are denied", "outside FR")

	c = s.check("geo", `{database: [country.mmdb, asn.mmdb], allow: [DE], allowASN: [64496], denyASN: [64511], unknown: allow}`)
	wants(t, ask("203.0.113.7"), "")
	wants(t, ask("203.0.113.70"), "geo.denied", "in DE, AS64511", "AS64511 are denied")
	wants(t, ask("198.51.100.7"), "") // of an operator that may call from anywhere
	wants(t, ask("8.8.8.8"), "")
	x := s.from("198.51.100.7", "GET /")
	x.Explaining = true
	facts := c.Check(x).Facts
	if f, _ := facts.Find("place", reason.ToCaller); f.Text() != "FR, AS64496" {
		t.Errorf("facts %v", facts)
	}
	c = s.check("geo", `{database: [asn.mmdb], denyASN: [64511]}`)
	wants(t, ask("203.0.113.7"), "geo.unknown", "the network operator of 203.0.113.7 is not known")
	wants(t, ask("198.51.100.7"), "")
	wants(t, ask("203.0.113.70"), "geo.denied")
	c = s.check("geo", `{database: [country.mmdb, asn.mmdb], allow: [DE], denyASN: [64511]}`)
	wants(t, ask("203.0.113.7"), "") // an allowed country is enough, where no operator is known

	// Another database takes the place of the first; what is none does not.
	c = s.check("geo", `{database: [country.mmdb], allow: [DE]}`)
	look := func() {
		f := s.kept["geo\x00"+filepath.Join(s.dir, "country.mmdb")].(*followed[geoDB])
		f.look()
		f.look()
	}
	s.write("country.mmdb", "not a database")
	look()
	wants(t, ask("203.0.113.7"), "")
	s.warns("geo", `{database: [country.mmdb], allow: [DE]}`, "geo.old-file")
	if !strings.Contains(s.log.String(), "no database in the MaxMind format") {
		t.Errorf("log %s", &s.log)
	}
	s.write("country.mmdb", string(geoFixture(t, mmdbwriter.Options{}, map[string]mmdbtype.DataType{"203.0.113.0/24": mmdbtype.Map{"country_code": mmdbtype.String("AT")}})))
	look()
	wants(t, ask("203.0.113.7"), "geo.not-allowed", "is in AT")
}

func TestGeoForms(t *testing.T) {
	for _, c := range []struct {
		record mmdbtype.DataType
		want   geoPlace
	}{
		{mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("DE")}}, geoPlace{country: country{'D', 'E'}}},
		{mmdbtype.Map{"country_code": mmdbtype.String("de")}, geoPlace{country: country{'D', 'E'}}},
		{mmdbtype.Map{"country": mmdbtype.String("DE"), "asn": mmdbtype.String("AS64496")}, geoPlace{country{'D', 'E'}, 64496}},
		{mmdbtype.Map{"asn": mmdbtype.String("64496")}, geoPlace{asn: 64496}},
		{mmdbtype.Map{"asn": mmdbtype.Uint64(64496)}, geoPlace{asn: 64496}},
		{mmdbtype.Map{"asn": mmdbtype.Uint64(1 << 40)}, geoPlace{}},
		{mmdbtype.Map{"asn": mmdbtype.String("AS-EXAMPLE")}, geoPlace{}},
		{mmdbtype.Map{"country_code": mmdbtype.String("DEU")}, geoPlace{}},
		{mmdbtype.Map{"country_code": mmdbtype.String("-")}, geoPlace{}},
		{mmdbtype.Map{"country": mmdbtype.String(strings.Repeat("x", 300))}, geoPlace{}},
		{mmdbtype.Map{"country": mmdbtype.Slice{mmdbtype.String("DE")}}, geoPlace{}},
		{mmdbtype.String("DE"), geoPlace{}},
	} {
		for _, size := range []int{24, 28, 32} {
			for version, network := range map[int]string{4: "203.0.113.0/24", 6: "203.0.113.0/24"} {
				content := geoFixture(t, mmdbwriter.Options{RecordSize: size, IPVersion: version}, map[string]mmdbtype.DataType{
					network: c.record, "198.51.100.0/24": mmdbtype.Map{"country_code": mmdbtype.String("FR")}})
				db, err := openGeoDB(content)
				if err != nil {
					t.Fatal(err)
				}
				if got := db.find(netip.MustParseAddr("203.0.113.7")); got != c.want {
					t.Errorf("%v: %v, want %v", c.record, got, c.want)
				}
				if got := db.find(netip.MustParseAddr("2001:db8::1")); got != (geoPlace{}) {
					t.Errorf("an address that is not there is in %v", got)
				}
			}
		}
	}
}

func TestGeoWrong(t *testing.T) {
	s := newShelf(t)
	good := geoFixture(t, mmdbwriter.Options{}, map[string]mmdbtype.DataType{"203.0.113.0/24": maxmindRecord("DE")})
	s.write("country.mmdb", string(good))
	s.write("half.mmdb", string(good[:len(good)/2]))
	s.write("text.mmdb", "hello")
	s.write("empty.mmdb", "")
	s.write("names.mmdb", string(geoFixture(t, mmdbwriter.Options{}, map[string]mmdbtype.DataType{"203.0.113.0/24": mmdbtype.Map{"domain": mmdbtype.String("example.test")}})))
	for _, c := range [][3]string{
		{`{database: [country.mmdb]}`, "test.yaml:1:1", "decides nothing"},
		{`{allow: [DE]}`, "test.yaml", "database"},
		{`{database: [none.mmdb], allow: [DE]}`, "test.yaml:1:13", "no such file"},
		{`{database: [half.mmdb], allow: [DE]}`, "test.yaml:1:13", "no database in the MaxMind format"},
		{`{database: [text.mmdb], allow: [DE]}`, "test.yaml:1:13", "no database in the MaxMind format"},
		{`{database: [empty.mmdb], allow: [DE]}`, "test.yaml:1:13", "no database in the MaxMind format"},
		{`{database: [names.mmdb], allow: [DE]}`, "test.yaml:1:13", "neither countries nor autonomous systems"},
		{`{database: [country.mmdb], allow: [UK]}`, "test.yaml:1:36", "write GB"},
		{`{database: [country.mmdb], allow: [DEU]}`, "test.yaml:1:36", "two letters"},
		{`{database: [country.mmdb], allow: [DE], deny: [de]}`, "test.yaml:1:36", "DE is allowed and denied"},
		{`{database: [country.mmdb], allow: [DE], allowASN: [1], denyASN: [1]}`, "test.yaml", "AS1 is allowed and denied"},
		{`{database: [country.mmdb], denyASN: [64496]}`, "test.yaml:1:12", "no database knows any"},
		{`{database: [country.mmdb], denyASN: [0]}`, "test.yaml", "at least 1"},
		{`{database: [country.mmdb], allow: [DE], unknown: maybe}`, "test.yaml", "allow"},
		{`{database: [country.mmdb, country.mmdb, country.mmdb, country.mmdb, country.mmdb], allow: [DE]}`, "test.yaml:1:12", "at most 4"},
	} {
		s.errs("geo", c[0], c[1], c[2])
	}
	s.write("old.mmdb", string(geoFixture(t, mmdbwriter.Options{BuildEpoch: time.Now().Add(-365 * 24 * time.Hour).Unix()}, map[string]mmdbtype.DataType{"203.0.113.0/24": maxmindRecord("DE")})))
	s.warns("geo", `{database: [old.mmdb], allow: [DE]}`, "geo.old-database")
	s.warns("geo", `{database: [country.mmdb], allow: [DE]}`, "")
}

// FuzzGeoDB: whatever stands in a file, it is opened or refused, and looking up ends.
func FuzzGeoDB(f *testing.F) {
	f.Add(geoFixture(f, mmdbwriter.Options{RecordSize: 24}, map[string]mmdbtype.DataType{"203.0.113.0/24": maxmindRecord("DE")}))
	f.Add(geoFixture(f, mmdbwriter.Options{IPVersion: 4, RecordSize: 32}, map[string]mmdbtype.DataType{"203.0.113.0/24": mmdbtype.Map{"asn": mmdbtype.String("AS1")}}))
	f.Add([]byte("\xab\xcd\xefMaxMind.com"))
	f.Fuzz(func(t *testing.T, content []byte) {
		db, err := openGeoDB(content)
		if err != nil {
			return
		}
		for _, a := range []string{"203.0.113.7", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "ffff::"} {
			p := db.find(netip.MustParseAddr(a))
			if p.country != (country{}) && codeOf(p.country[:]) != p.country {
				t.Fatalf("country %q", p.country)
			}
		}
	})
}

func geoBench(tb testing.TB) (*geoCheck, *Exchange) {
	records := map[string]mmdbtype.DataType{}
	for i := range 4000 {
		records[netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 8), byte(i), 0}), 24).String()] = maxmindRecord([]string{"DE", "AT", "CH", "FR"}[i%4])
	}
	db, err := openGeoDB(geoFixture(tb, mmdbwriter.Options{}, records))
	if err != nil {
		tb.Fatal(err)
	}
	f := &followed[geoDB]{}
	f.now.Store(db)
	c := &geoCheck{files: []*followed[geoDB]{f}, byCountry: true, allow: []country{{'D', 'E'}, {'A', 'T'}, {'C', 'H'}}, trust: NewTrust(nil)}
	return c, &Exchange{Client: Client{Addr: netip.MustParseAddr("203.0.113.7")}}
}

func TestGeoDoesNotAllocate(t *testing.T) {
	c, x := geoBench(t)
	x.Client.Addr = netip.MustParseAddr("203.0.112.7") // the 113th is in AT, the 112th in DE
	if n := testing.AllocsPerRun(100, func() {
		if c.Check(x).Refused() {
			t.Fatal("refused")
		}
	}); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
}

func BenchmarkGeo(b *testing.B) {
	c, x := geoBench(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.Client.Addr = netip.AddrFrom4([4]byte{203, byte(i >> 10 & 3), byte(i&63) * 4, 7})
		if c.Check(x).Refused() {
			b.Fatal("refused")
		}
	}
}
