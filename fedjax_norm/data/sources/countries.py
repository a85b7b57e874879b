"""The continent and subcontinent of each country, by the United Nations' standard M49.

Paper 004 groups geotagged pictures by the first level (continents) and the second level
(subcontinents) of the United Nations Statistics Division's "Standard country or area codes for
statistical use (M49)".
"""

from typing import NamedTuple

# Continent -> subcontinent -> countries, as ISO 3166 alpha-2 and alpha-3 codes: all 249 except
# Antarctica, which M49 puts into no region. M49 does not list Taiwan separately; here it is in
# Eastern Asia.
_COUNTRIES = {
  "Africa": {
    "Northern Africa": "DZ/DZA EG/EGY EH/ESH LY/LBY MA/MAR SD/SDN TN/TUN",
    "Sub-Saharan Africa": (
      "AO/AGO BF/BFA BI/BDI BJ/BEN BW/BWA CD/COD CF/CAF CG/COG CI/CIV CM/CMR CV/CPV DJ/DJI ER/ERI "
      "ET/ETH GA/GAB GH/GHA GM/GMB GN/GIN GQ/GNQ GW/GNB IO/IOT KE/KEN KM/COM LR/LBR LS/LSO MG/MDG "
      "ML/MLI MR/MRT MU/MUS MW/MWI MZ/MOZ NA/NAM NE/NER NG/NGA RE/REU RW/RWA SC/SYC SH/SHN SL/SLE "
      "SN/SEN SO/SOM SS/SSD ST/STP SZ/SWZ TD/TCD TF/ATF TG/TGO TZ/TZA UG/UGA YT/MYT ZA/ZAF ZM/ZMB "
      "ZW/ZWE"
    ),
  },
  "Americas": {
    "Latin America and the Caribbean": (
      "AG/ATG AI/AIA AR/ARG AW/ABW BB/BRB BL/BLM BO/BOL BQ/BES BR/BRA BS/BHS BV/BVT BZ/BLZ CL/CHL "
      "CO/COL CR/CRI CU/CUB CW/CUW DM/DMA DO/DOM EC/ECU FK/FLK GD/GRD GF/GUF GP/GLP GS/SGS GT/GTM "
      "GY/GUY HN/HND HT/HTI JM/JAM KN/KNA KY/CYM LC/LCA MF/MAF MQ/MTQ MS/MSR MX/MEX NI/NIC PA/PAN "
      "PE/PER PR/PRI PY/PRY SR/SUR SV/SLV SX/SXM TC/TCA TT/TTO UY/URY VC/VCT VE/VEN VG/VGB VI/VIR"
    ),
    "Northern America": "BM/BMU CA/CAN GL/GRL PM/SPM US/USA",
  },
  "Asia": {
    "Central Asia": "KG/KGZ KZ/KAZ TJ/TJK TM/TKM UZ/UZB",
    "Eastern Asia": "CN/CHN HK/HKG JP/JPN KP/PRK KR/KOR MN/MNG MO/MAC TW/TWN",
    "South-eastern Asia": (
      "BN/BRN ID/IDN KH/KHM LA/LAO MM/MMR MY/MYS PH/PHL SG/SGP TH/THA TL/TLS VN/VNM"
    ),
    "Southern Asia": "AF/AFG BD/BGD BT/BTN IN/IND IR/IRN LK/LKA MV/MDV NP/NPL PK/PAK",
    "Western Asia": (
      "AE/ARE AM/ARM AZ/AZE BH/BHR CY/CYP GE/GEO IL/ISR IQ/IRQ JO/JOR KW/KWT LB/LBN OM/OMN PS/PSE "
      "QA/QAT SA/SAU SY/SYR TR/TUR YE/YEM"
    ),
  },
  "Europe": {
    "Eastern Europe": "BG/BGR BY/BLR CZ/CZE HU/HUN MD/MDA PL/POL RO/ROU RU/RUS SK/SVK UA/UKR",
    "Northern Europe": (
      "AX/ALA DK/DNK EE/EST FI/FIN FO/FRO GB/GBR GG/GGY IE/IRL IM/IMN IS/ISL JE/JEY LT/LTU LV/LVA "
      "NO/NOR SE/SWE SJ/SJM"
    ),
    "Southern Europe": (
      "AD/AND AL/ALB BA/BIH ES/ESP GI/GIB GR/GRC HR/HRV IT/ITA ME/MNE MK/MKD MT/MLT PT/PRT RS/SRB "
      "SI/SVN SM/SMR VA/VAT"
    ),
    "Western Europe": "AT/AUT BE/BEL CH/CHE DE/DEU FR/FRA LI/LIE LU/LUX MC/MCO NL/NLD",
  },
  "Oceania": {
    "Australia and New Zealand": "AU/AUS CC/CCK CX/CXR HM/HMD NF/NFK NZ/NZL",
    "Melanesia": "FJ/FJI NC/NCL PG/PNG SB/SLB VU/VUT",
    "Micronesia": "FM/FSM GU/GUM KI/KIR MH/MHL MP/MNP NR/NRU PW/PLW UM/UMI",
    "Polynesia": "AS/ASM CK/COK NU/NIU PF/PYF PN/PCN TK/TKL TO/TON TV/TUV WF/WLF WS/WSM",
  },
}


class Country(NamedTuple):
  """A country, its continent and its subcontinent.

  Attributes:
    country: the ISO 3166 alpha-2 code.
    continent: the first-level region; None for Antarctica, which has none in M49.
    subcontinent: the second-level region; None for Antarctica.
  """

  country: str
  continent: str | None
  subcontinent: str | None


def _by_code() -> dict[str, Country]:
  countries = dict.fromkeys(("AQ", "ATA"), Country("AQ", None, None))
  for continent, parts in _COUNTRIES.items():
    for subcontinent, codes in parts.items():
      for pair in codes.split():
        two, _, three = pair.partition("/")
        countries |= dict.fromkeys((two, three), Country(two, continent, subcontinent))
  return countries


_BY_CODE = _by_code()


def find_country(code: str) -> Country | None:
  """Returns the country with this ISO 3166 alpha-2 or alpha-3 code (any case); None if unknown."""
  return _BY_CODE.get(code.strip().upper())
