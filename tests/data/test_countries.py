"""The regions of countries, against the list that the United Nations publish."""

import itertools
import string
from collections import Counter

import pytest

from fedjax_norm.data.sources.countries import find_country

# The number of countries of each region in the UN's list, with the 249 codes of ISO 3166 (so with
# Taiwan and without Sark, which has no code).
SUBCONTINENTS = {
  "Northern Africa": 7,
  "Sub-Saharan Africa": 53,
  "Latin America and the Caribbean": 52,
  "Northern America": 5,
  "Central Asia": 5,
  "Eastern Asia": 8,
  "South-eastern Asia": 11,
  "Southern Asia": 9,
  "Western Asia": 18,
  "Eastern Europe": 10,
  "Northern Europe": 16,
  "Southern Europe": 16,
  "Western Europe": 9,
  "Australia and New Zealand": 6,
  "Melanesia": 5,
  "Micronesia": 8,
  "Polynesia": 10,
}
CONTINENTS = {"Africa": 60, "Americas": 57, "Asia": 51, "Europe": 51, "Oceania": 29}


def countries(length):
  """Returns the country of every existing code of this length."""
  codes = map("".join, itertools.product(string.ascii_uppercase, repeat=length))
  return {code: country for code in codes if (country := find_country(code))}


def test_every_country_has_one_code_of_each_length_and_its_regions():
  two, three = countries(2), countries(3)
  assert len(two) == len(three) == 249
  assert Counter(two.values()) == Counter(three.values())
  assert all(country.country == code for code, country in two.items())
  assert Counter(country.subcontinent for country in two.values()) == SUBCONTINENTS | {None: 1}
  assert Counter(country.continent for country in two.values()) == CONTINENTS | {None: 1}


@pytest.mark.parametrize(
  ("codes", "continent", "subcontinent"),
  [
    ("EG EGY SD SDN EH", "Africa", "Northern Africa"),
    ("NA NAM ZA ZAF KEN SS RE TF MRT", "Africa", "Sub-Saharan Africa"),
    ("US USA GL GRL BMU", "Americas", "Northern America"),
    ("MX MEX BR FK JAM PRI BV", "Americas", "Latin America and the Caribbean"),
    ("KZ UZB", "Asia", "Central Asia"),
    ("CN JPN MN HKG TW", "Asia", "Eastern Asia"),
    ("ID TLS SGP", "Asia", "South-eastern Asia"),
    ("IN IRN AF LKA", "Asia", "Southern Asia"),
    ("TR CYP GE PSE", "Asia", "Western Asia"),
    ("RU UKR CZE PL", "Europe", "Eastern Europe"),
    ("GB GBR EST NOR IRL JE", "Europe", "Northern Europe"),
    ("ES HRV VAT SVN", "Europe", "Southern Europe"),
    ("DE DEU CHE FR MCO", "Europe", "Western Europe"),
    ("AU NZL NF", "Oceania", "Australia and New Zealand"),
    ("FJ PNG NCL", "Oceania", "Melanesia"),
    ("GU KIR NR PW", "Oceania", "Micronesia"),
    ("WS TON PYF PCN TV", "Oceania", "Polynesia"),
  ],
)
def test_countries_have_the_regions_of_the_standard(codes, continent, subcontinent):
  for code in codes.split():
    country = find_country(f" {code.lower()} ")
    assert country[1:] == (continent, subcontinent), code


def test_unknown_codes_have_no_country_and_antarctica_has_no_region():
  assert find_country("XX") is None
  assert find_country("") is None
  assert find_country("UK") is None  # the code is GB
  assert find_country("ATA") == ("AQ", None, None)
